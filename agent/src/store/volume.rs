//! A volume: a directory on a file system that keeps what it is told to keep.
//!
//! An object is written to a temporary file beside its place, synced, and linked to its name, which fails if the name is taken; then the directory is
//! synced. A file system keeps no checksum: parts are read back.

use super::{
    backend::{Backend, ByteStream, Content, ObjectMeta, OpenUpload, Page, Piece, PieceReceipt, Versioning},
    clock::since_boot,
    digest::{self, Sha256},
    error::StoreError,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use object_store::PutPayload;
use rustix::{
    fs::{OFlags, RenameFlags},
    io::Errno,
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

/// Temporary files begin like this, which no path in a store does.
const TEMPORARY: &str = ".holdfast-";
/// How much is read at once, in bytes.
const CHUNK: u64 = 1 << 20;

/// How many segments the directory of a run has: `data/<namespace>/<source>/<run>`.
const RUN_DEPTH: usize = 4;

/// Where a volume is.
#[derive(Clone, Debug)]
pub struct VolumeConfig {
    /// Where it is mounted. Must exist.
    pub mount: PathBuf,
    /// Folder on it, without a slash at either end; it is made if missing.
    pub path: Option<String>,
    /// When the pod's Job was created, by the API server: from then on the clock counts, whatever the node's shows. Without it, the node's is believed.
    pub created: Option<Timestamp>,
}

/// A volume.
#[derive(Debug)]
pub struct Volume {
    root: PathBuf,
    /// Time and time since boot at the beginning: later steps of the wall clock do not count.
    opened: (Timestamp, Duration),
}

impl Volume {
    /// Checks that the place exists and lies on a file system that survives its pod.
    pub fn open(config: &VolumeConfig) -> Result<Self, StoreError> {
        let mount = config.mount.canonicalize().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::NoSuchStore {
                name: config.mount.display().to_string(),
            },
            _ => failed("open", &config.mount, &error),
        })?;
        let kind = rustix::fs::statfs(&mount)
            .map_err(|error| failed("statfs", &mount, &error.into()))?
            .f_type;
        if let Some(name) = forgetful(kind) {
            let problem = format!(
                "{} lies on {name}, which ends with the pod or the node; expected a PersistentVolumeClaim on a real file system",
                mount.display()
            );
            return Err(StoreError::Settings {
                field: "spec.volume.claimName",
                problem,
            });
        }
        let root = match &config.path {
            Some(path) => {
                path.parse::<super::StorePath>()?;
                mount.join(path)
            }
            None => mount.clone(),
        };
        make_directories(&mount, &root)?;
        if !root.canonicalize().is_ok_and(|real| real.starts_with(&mount)) {
            let problem = format!("{} leads out of the volume", root.display());
            return Err(StoreError::Settings {
                field: "spec.volume.path",
                problem,
            });
        }
        Ok(Self {
            root,
            opened: (config.created.unwrap_or_else(Timestamp::now), since_boot()),
        })
    }

    fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A new temporary file in the directory of `path`.
    fn temporary(&self, path: &str) -> Result<(PathBuf, File), StoreError> {
        let target = self.file(path);
        let directory = target.parent().unwrap_or(&self.root);
        make_directories(&self.root, directory)?;
        let name = format!("{TEMPORARY}{}", super::random()?);
        let temporary = directory.join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).custom_flags(nofollow()).mode(0o640);
        let file = options.open(&temporary).map_err(|error| failed("create", &temporary, &error))?;
        Ok((temporary, file))
    }

    fn create_now(&self, path: &str, body: &PutPayload, sha256: &Sha256) -> Result<(), StoreError> {
        let found = digest::of_payload(body);
        if found != *sha256 {
            return Err(StoreError::Damaged {
                path: path.to_owned(),
                problem: format!("SHA-256 is {found}, expected {sha256}"),
            });
        }
        let (temporary, mut file) = self.temporary(path)?;
        let written = body
            .iter()
            .try_for_each(|chunk| file.write_all(chunk))
            .and_then(|()| file.sync_all())
            .map_err(|error| failed("write", &temporary, &error));
        let linked = written.and_then(|()| self.publish(&temporary, path));
        let _ = fs::remove_file(&temporary);
        linked
    }

    /// Gives a synced file its name, if that is free, and syncs the directory.
    fn publish(&self, temporary: &Path, path: &str) -> Result<(), StoreError> {
        let target = self.file(path);
        let directory = target.parent().unwrap_or(&self.root);
        let taken = || StoreError::AlreadyExists { path: path.to_owned() };
        match fs::hard_link(temporary, &target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
            // A file system without hard links may still rename without replacing.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK)
                ) =>
            {
                match rustix::fs::renameat_with(rustix::fs::CWD, temporary, rustix::fs::CWD, &target, RenameFlags::NOREPLACE) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => return Err(taken()),
                    Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                        let problem = "the file system has neither hard links nor renames that do not replace".to_owned();
                        return Err(StoreError::Unsupported {
                            call: "create if absent",
                            problem,
                        });
                    }
                    Err(error) => return Err(failed("rename", &target, &error.into())),
                }
            }
            Err(error) => return Err(failed("link", &target, &error)),
        }
        sync_directory(directory)
    }

    /// Removes a file, and the directories of its run and pod that have become empty.
    fn delete_now(&self, path: &str) -> Result<(), StoreError> {
        let file = self.file(path);
        match fs::remove_file(&file) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(failed("remove", &file, &error));
            }
            // Gone already: whether that was synced is not known.
            _ => {}
        }
        let mut directory = path;
        while let Some((parent, _)) = directory.rsplit_once('/') {
            directory = parent;
            let place = self.file(directory);
            if place.is_dir() {
                sync_directory(&place)?;
                // A directory of a namespace or source may get a new file at any moment, one of a run that is removed does not.
                if directory.split('/').count() < RUN_DEPTH || fs::remove_dir(&place).is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn uploads_now(&self, prefix: &str) -> Result<Vec<OpenUpload>, StoreError> {
        let mut found = Vec::new();
        self.walk(prefix, &mut |path, temporary, metadata| {
            if temporary {
                let started = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
                found.push(OpenUpload {
                    path: path.clone(),
                    id: path,
                    started,
                });
            }
        })?;
        Ok(found)
    }

    fn list_now(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let mut found = Vec::new();
        self.walk(prefix, &mut |path, temporary, metadata| {
            if !temporary {
                found.push(meta(&path, metadata));
            }
        })?;
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Visits all files below the directory of `prefix` whose paths begin with it. Links are not followed.
    fn walk(&self, prefix: &str, visit: &mut dyn FnMut(String, bool, &fs::Metadata)) -> Result<(), StoreError> {
        let mut directories = vec![prefix.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned()];
        while let Some(directory) = directories.pop() {
            let place = self.root.join(&directory);
            let entries = match fs::read_dir(&place) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|error| failed("list", &place, &error))?,
            };
            for entry in entries {
                let entry = entry.map_err(|error| failed("list", &place, &error))?;
                let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                    continue;
                };
                let path = if directory.is_empty() {
                    name.clone()
                } else {
                    format!("{directory}/{name}")
                };
                let metadata = match entry.metadata() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other.map_err(|error| failed("list", &entry.path(), &error))?,
                };
                if metadata.is_dir() {
                    if path.starts_with(prefix) || prefix.starts_with(&format!("{path}/")) {
                        directories.push(path);
                    }
                } else if metadata.is_file() && path.starts_with(prefix) {
                    visit(path, name.starts_with(TEMPORARY), &metadata);
                }
            }
        }
        Ok(())
    }
}

/// The name of a file system that does not keep what is written, by its magic number.
pub(super) fn forgetful(kind: rustix::fs::FsWord) -> Option<&'static str> {
    match kind {
        0x0102_1994 => Some("tmpfs"),
        0x8584_58f6 => Some("ramfs"),
        0x794c_7630 => Some("overlay"),
        _ => None,
    }
}

fn nofollow() -> i32 {
    (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed()
}

pub(super) fn failed(call: &'static str, path: &Path, error: &io::Error) -> StoreError {
    let path = path.display().to_string();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => StoreError::Full {
            problem: format!("{call} {path}: {error}"),
        },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Denied {
            call,
            path,
            status: 0,
            code: error.to_string(),
        },
        io::ErrorKind::NotFound => StoreError::NotFound { path },
        _ => StoreError::Io {
            call,
            path,
            problem: error.to_string(),
        },
    }
}

fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .map_err(|error| failed("sync", directory, &error))
}

/// Makes `directory` and what is missing between it and `root`, each synced into its parent.
fn make_directories(root: &Path, directory: &Path) -> Result<(), StoreError> {
    if directory == root || directory.is_dir() {
        return Ok(());
    }
    let Some(parent) = directory.parent() else { return Ok(()) };
    make_directories(root, parent)?;
    match fs::create_dir(directory) {
        Ok(()) => sync_directory(parent),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("make directory", directory, &error)),
    }
}

fn meta(path: &str, metadata: &fs::Metadata) -> ObjectMeta {
    let modified = metadata.modified().ok().and_then(|time| Timestamp::try_from(time).ok());
    ObjectMeta {
        path: path.to_owned(),
        size: metadata.len(),
        checksum: None,
        version: None,
        modified,
    }
}

/// File systems block: not on a thread that serves others.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Cancelled)?
}

impl Volume {
    fn copy(&self) -> Self {
        Self {
            root: self.root.clone(),
            opened: self.opened,
        }
    }
}

#[async_trait]
impl Backend for Volume {
    fn describe(&self) -> String {
        format!("volume at {}", self.root.display())
    }

    fn min_piece(&self) -> u64 {
        1
    }

    fn now(&self) -> Option<Timestamp> {
        let (wall, boot) = self.opened;
        wall.checked_add(SignedDuration::try_from(since_boot().saturating_sub(boot)).ok()?)
            .ok()
    }

    async fn renew_credentials(&self) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn create(&self, path: &str, _: Content, body: &PutPayload, sha256: &Sha256) -> Result<(), StoreError> {
        let (volume, path, body, sha256) = (self.copy(), path.to_owned(), body.clone(), *sha256);
        blocking(move || volume.create_now(&path, &body, &sha256)).await
    }

    async fn start_upload(&self, path: &str) -> Result<String, StoreError> {
        let (volume, path) = (self.copy(), path.to_owned());
        blocking(move || {
            let (temporary, _) = volume.temporary(&path)?;
            let relative = temporary.strip_prefix(&volume.root).unwrap_or(&temporary);
            Ok(relative.display().to_string())
        })
        .await
    }

    async fn put_piece(&self, path: &str, upload: &str, piece: &Piece) -> Result<PieceReceipt, StoreError> {
        let (file, path, piece) = (self.file(upload), path.to_owned(), piece.clone());
        blocking(move || {
            let open = OpenOptions::new().write(true).custom_flags(nofollow()).open(&file);
            let handle = open.map_err(|error| lost(&path, failed("open", &file, &error)))?;
            let mut offset = piece.offset;
            for chunk in &piece.body {
                handle.write_all_at(chunk, offset).map_err(|error| failed("write", &file, &error))?;
                offset += chunk.len() as u64;
            }
            Ok(PieceReceipt {
                number: piece.number,
                size: offset - piece.offset,
                sha256: piece.sha256,
                tag: String::new(),
            })
        })
        .await
    }

    async fn complete_upload(&self, path: &str, upload: &str, pieces: &[PieceReceipt]) -> Result<(), StoreError> {
        let size: u64 = pieces.iter().map(|piece| piece.size).sum();
        let (volume, path, temporary) = (self.copy(), path.to_owned(), self.file(upload));
        blocking(move || {
            let file = File::open(&temporary).map_err(|error| lost(&path, failed("open", &temporary, &error)))?;
            let found = file.metadata().map_err(|error| failed("stat", &temporary, &error))?.len();
            if found != size {
                return Err(StoreError::Mismatch {
                    path,
                    problem: format!("{size} bytes were written, the file has {found}"),
                });
            }
            file.sync_all().map_err(|error| failed("sync", &temporary, &error))?;
            let published = volume.publish(&temporary, &path);
            let _ = fs::remove_file(&temporary);
            published
        })
        .await
    }

    async fn abort_upload(&self, path: &str, upload: &str) -> Result<(), StoreError> {
        let (file, path) = (self.file(upload), path.to_owned());
        blocking(move || fs::remove_file(&file).map_err(|error| lost(&path, failed("remove", &file, &error)))).await
    }

    async fn list_uploads(&self, prefix: &str, _: Option<&str>) -> Result<Page<OpenUpload>, StoreError> {
        let (volume, prefix) = (self.copy(), prefix.to_owned());
        blocking(move || {
            Ok(Page {
                items: volume.uploads_now(&prefix)?,
                next: None,
            })
        })
        .await
    }

    async fn head(&self, path: &str, _: Option<&str>) -> Result<Option<ObjectMeta>, StoreError> {
        let (file, path) = (self.file(path), path.to_owned());
        blocking(move || match fs::symlink_metadata(&file) {
            Ok(metadata) if metadata.is_file() => Ok(Some(meta(&path, &metadata))),
            Ok(_) => Ok(None),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(failed("stat", &file, &error)),
        })
        .await
    }

    async fn get(&self, path: &str, range: Option<Range<u64>>, _: Option<&str>) -> Result<Option<(ObjectMeta, ByteStream)>, StoreError> {
        let (file, path) = (self.file(path), path.to_owned());
        let opened = blocking(move || {
            let mut handle = match OpenOptions::new().read(true).custom_flags(nofollow()).open(&file) {
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
                other => other.map_err(|error| failed("open", &file, &error))?,
            };
            let metadata = handle.metadata().map_err(|error| failed("stat", &file, &error))?;
            if !metadata.is_file() {
                return Ok(None);
            }
            let range = range.unwrap_or(0..metadata.len());
            if range.end > metadata.len() {
                return Err(StoreError::Mismatch {
                    path,
                    problem: "it is shorter than what was asked for".to_owned(),
                });
            }
            handle
                .seek(SeekFrom::Start(range.start))
                .map_err(|error| failed("seek", &file, &error))?;
            Ok(Some((meta(&path, &metadata), handle, file, range.end - range.start)))
        });
        let Some((meta, handle, file, length)) = opened.await? else {
            return Ok(None);
        };
        let stream = stream::try_unfold((handle, file, length), |(mut handle, file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            blocking(move || {
                let mut chunk = Vec::with_capacity(usize::try_from(left.min(CHUNK)).unwrap_or_default());
                let read = (&mut handle)
                    .take(left.min(CHUNK))
                    .read_to_end(&mut chunk)
                    .map_err(|error| failed("read", &file, &error))?;
                if read == 0 {
                    return Ok(None);
                }
                Ok(Some((Bytes::from(chunk), (handle, file, left - read as u64))))
            })
            .await
        });
        Ok(Some((meta, stream.boxed())))
    }

    async fn list(&self, prefix: &str, _: Option<&str>) -> Result<Page<ObjectMeta>, StoreError> {
        let (volume, prefix) = (self.copy(), prefix.to_owned());
        blocking(move || {
            Ok(Page {
                items: volume.list_now(&prefix)?,
                next: None,
            })
        })
        .await
    }

    async fn versioning(&self) -> Result<Versioning, StoreError> {
        Ok(Versioning::Disabled)
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let (volume, path) = (self.copy(), path.to_owned());
        blocking(move || volume.delete_now(&path)).await
    }
}

/// The temporary file of an upload is gone.
fn lost(path: &str, error: StoreError) -> StoreError {
    match error {
        StoreError::NotFound { .. } => StoreError::UploadLost { path: path.to_owned() },
        other => other,
    }
}
