//! Writes the generated files: the CustomResourceDefinitions that the chart ships, and the table of defaults in the documentation.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = root.join("charts/holdfast-crds/templates");
    fs::create_dir_all(&folder)?;
    for (file, definition) in holdfast_crds::yaml::definitions() {
        fs::write(folder.join(file), holdfast_crds::yaml::render(&definition)?)?;
    }
    let page = root.join("docs/defaults.md");
    let written = holdfast_crds::defaults::page(&fs::read_to_string(&page)?)?;
    fs::write(page, written)?;
    Ok(())
}
