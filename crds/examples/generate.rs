//! Writes the generated files: the CustomResourceDefinitions that the chart ships.

use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/holdfast-crds/templates");
    fs::create_dir_all(&folder)?;
    for (file, definition) in holdfast_crds::yaml::definitions() {
        fs::write(folder.join(file), holdfast_crds::yaml::render(&definition)?)?;
    }
    Ok(())
}
