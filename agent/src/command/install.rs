//! `install`: what the init container does, so that the main container can be the engine's own image.

use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

/// Where Debian, Alpine, Fedora and our own image keep the bundle.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/usr/share/ca-certificates/ca-certificates.crt",
];

/// Copy the agent, a bundle of public CAs and a passwd file into a directory
///
/// The init container of a Job's pod does this: the main container, which has the engine's own image, then runs the agent from there,
/// with SSL_CERT_FILE set to the bundle and the passwd file mounted at /etc/passwd (PostgreSQL's tools want an entry for their uid).
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLE\n    holdfast-agent install /holdfast/bin --uid 65532")]
pub struct InstallArgs {
    /// Directory that exists and can be written to
    pub directory: PathBuf,
    /// User id that the passwd file gets an entry for; by default that of this process
    #[arg(long)]
    pub uid: Option<u32>,
    /// Bundle of public CA certificates (PEM); by default the system's
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// Copies; each file appears under its name only when it is whole.
pub fn run(arguments: &InstallArgs) -> Result<()> {
    let directory = &arguments.directory;
    let agent = std::env::current_exe()?;
    place(directory, "holdfast-agent", 0o755, |to| std::fs::copy(agent, to).map(|_| ()))?;
    let bundle = arguments
        .bundle
        .iter()
        .map(PathBuf::as_path)
        .chain(BUNDLES.iter().map(Path::new))
        .find(|path| path.exists());
    let bundle = bundle.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no CA bundle at {}", BUNDLES.join(", "))))?;
    place(directory, "ca-certificates.crt", 0o644, |to| std::fs::copy(bundle, to).map(|_| ()))?;
    let uid = match arguments.uid {
        Some(uid) => uid,
        None => std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self")?),
    };
    place(directory, "passwd", 0o644, |to| std::fs::write(to, passwd(uid)))
}

fn place(directory: &Path, name: &str, mode: u32, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let named = |error: Error| Error::new(error.kind(), format!("write {name} into {}: {error}", directory.display()));
    let partial = directory.join(format!(".{name}.partial"));
    write(&partial).map_err(named)?;
    std::fs::set_permissions(&partial, std::fs::Permissions::from_mode(mode)).map_err(named)?;
    std::fs::rename(&partial, directory.join(name)).map_err(named)
}

fn passwd(uid: u32) -> String {
    let root = "root:x:0:0:root:/root:/sbin/nologin\n";
    if uid == 0 {
        root.to_owned()
    } else {
        format!("{root}holdfast:x:{uid}:{uid}:holdfast:/tmp:/sbin/nologin\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_runs_and_has_an_entry_for_the_uid() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path().join("bundle");
        std::fs::write(&bundle, "certificates").unwrap();
        let arguments = InstallArgs {
            directory: directory.path().to_owned(),
            uid: Some(1234),
            bundle: Some(bundle),
        };
        for _ in 0..2 {
            run(&arguments).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("ca-certificates.crt"), "certificates");
        assert!(read("passwd").contains("holdfast:x:1234:1234:"));
        let agent = std::process::Command::new(directory.path().join("holdfast-agent"))
            .arg("--list")
            .output()
            .unwrap();
        assert!(agent.status.success());
        let error = run(&InstallArgs {
            directory: "/nonexistent".into(),
            uid: None,
            bundle: arguments.bundle,
        })
        .unwrap_err();
        assert!(error.to_string().starts_with("write holdfast-agent into /nonexistent: "), "{error}");
    }
}
