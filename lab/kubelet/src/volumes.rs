//! The volumes of a pod: directories on the node that its containers bind.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, KeyToPath, Pod, ProjectedVolumeSource, Volume,
};
use nix::mount::{MsFlags, mount};

use crate::{
    downward,
    sources::{Content, SourceError, Sources},
};

/// Files of a volume: relative path → content and mode.
type Payload = BTreeMap<String, (Vec<u8>, u32)>;
/// Where the current files of a volume are; changed in one step by renaming a link.
const DATA: &str = "..data";
/// Default life of a projected token in seconds, as in Kubernetes.
const TOKEN_SECONDS: i64 = 3607;

/// Why a volume cannot be had. The pod waits; the texts go into a FailedMount event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot write volume at {0}")]
    Io(PathBuf, #[source] io::Error),
    #[error("cannot mount a tmpfs at {0}")]
    Tmpfs(PathBuf, #[source] nix::Error),
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    HostPath { path: PathBuf, wanted: &'static str },
    #[error("references non-existent config key: {0}")]
    NoKey(String),
    #[error("the downward API has no {0}")]
    Field(String),
    #[error("volume path {0:?} leaves its volume")]
    Path(String),
    #[error("volumes of this kind are not offered by the lab: {0}")]
    Unsupported(String),
}

/// Makes all volumes of a pod that are not there yet and renews the content of those that are.
/// Returns where they are, by name; an error comes with the name of its volume.
pub(crate) async fn set_up(
    pod: &Pod,
    dir: &Path,
    sources: &Sources,
) -> Result<BTreeMap<String, PathBuf>, (String, VolumeError)> {
    let mut paths = BTreeMap::new();
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    for volume in volumes {
        let path = one(pod, volume, &dir.join("volumes").join(&volume.name), sources).await;
        let path = path.map_err(|error| (volume.name.clone(), error))?;
        paths.insert(volume.name.clone(), path);
    }
    Ok(paths)
}

/// Renews the content of volumes made from ConfigMaps, Secrets, tokens and fields of the pod.
pub(crate) async fn refresh(pod: &Pod, dir: &Path, sources: &Sources) -> Result<(), VolumeError> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    for volume in volumes {
        if let Some(payload) = payload(
            pod,
            volume,
            sources,
            Some(&dir.join("volumes").join(&volume.name)),
        )
        .await?
        {
            publish(&dir.join("volumes").join(&volume.name), &payload)?;
        }
    }
    Ok(())
}

async fn one(pod: &Pod, volume: &Volume, dir: &Path, sources: &Sources) -> Result<PathBuf, VolumeError> {
    let io = |error| VolumeError::Io(dir.to_owned(), error);
    if let Some(host) = &volume.host_path {
        return host_path(host);
    }
    fs::create_dir_all(dir).map_err(io)?;
    if let Some(empty) = &volume.empty_dir {
        if empty.medium.as_deref() == Some("Memory") && !crate::mounts::is_mount_point(dir) {
            let size = empty
                .size_limit
                .as_ref()
                .and_then(downward::milli)
                .map(|milli| milli / 1000);
            let options = size.filter(|size| *size > 0).map(|size| format!("size={size}"));
            mount(
                Some("tmpfs"),
                dir,
                Some("tmpfs"),
                MsFlags::MS_NOSUID,
                options.as_deref(),
            )
            .map_err(|error| VolumeError::Tmpfs(dir.to_owned(), error))?;
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).map_err(io)?;
        return Ok(dir.to_owned());
    }
    match payload(pod, volume, sources, Some(dir)).await? {
        Some(payload) => publish(dir, &payload)?,
        None => return Err(VolumeError::Unsupported(volume.name.clone())),
    }
    Ok(dir.to_owned())
}

fn host_path(host: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    let path = PathBuf::from(&host.path);
    let io = |error| VolumeError::Io(path.clone(), error);
    let kind = host.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" => fs::create_dir_all(&path).map_err(io)?,
        "FileOrCreate" if !path.exists() => fs::write(&path, "").map_err(io)?,
        // A bind needs a source: as the kubelet and its runtime do, a missing one becomes a directory.
        "" if !path.exists() => fs::create_dir_all(&path).map_err(io)?,
        _ => {}
    }
    let kind_of = fs::metadata(&path).map(|metadata| metadata.file_type());
    let is = |check: &dyn Fn(&fs::FileType) -> bool| kind_of.as_ref().is_ok_and(check);
    let (fits, wanted) = match kind {
        "" => (true, ""),
        "DirectoryOrCreate" | "Directory" => (is(&fs::FileType::is_dir), "directory"),
        "FileOrCreate" | "File" => (is(&fs::FileType::is_file), "file"),
        "Socket" => (is(&FileTypeExt::is_socket), "socket file"),
        "CharDevice" => (is(&FileTypeExt::is_char_device), "character device"),
        "BlockDevice" => (is(&FileTypeExt::is_block_device), "block device"),
        other => return Err(VolumeError::Unsupported(format!("hostPath of type {other}"))),
    };
    if fits {
        Ok(path)
    } else {
        Err(VolumeError::HostPath { path, wanted })
    }
}

/// The files a volume should have; `None` for volumes that are not made of files.
async fn payload(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    current: Option<&Path>,
) -> Result<Option<Payload>, VolumeError> {
    let mode = |mode: Option<i32>| mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o644);
    let mut files = Payload::new();
    if let Some(map) = &volume.config_map {
        let optional = map.optional == Some(true);
        let content = sources.config_map(&map.name, optional).await?;
        select(
            &mut files,
            content,
            map.items.as_deref(),
            mode(map.default_mode),
            optional,
        )?;
    } else if let Some(secret) = &volume.secret {
        let optional = secret.optional == Some(true);
        let content = sources
            .secret(secret.secret_name.as_deref().unwrap_or_default(), optional)
            .await?;
        select(
            &mut files,
            content,
            secret.items.as_deref(),
            mode(secret.default_mode),
            optional,
        )?;
    } else if let Some(fields) = &volume.downward_api {
        downward_files(
            &mut files,
            pod,
            fields.items.as_deref(),
            mode(fields.default_mode),
        )?;
    } else if let Some(projected) = &volume.projected {
        self::projected(
            &mut files,
            pod,
            projected,
            sources,
            current,
            mode(projected.default_mode),
        )
        .await?;
    } else {
        return Ok(None);
    }
    match files.keys().find(|path| !is_inside(path)) {
        Some(path) => Err(VolumeError::Path(path.clone())),
        None => Ok(Some(files)),
    }
}

async fn projected(
    files: &mut Payload,
    pod: &Pod,
    volume: &ProjectedVolumeSource,
    sources: &Sources,
    current: Option<&Path>,
    mode: u32,
) -> Result<(), VolumeError> {
    for source in volume.sources.as_deref().unwrap_or_default() {
        if let Some(map) = &source.config_map {
            let optional = map.optional == Some(true);
            let content = sources.config_map(&map.name, optional).await?;
            select(files, content, map.items.as_deref(), mode, optional)?;
        }
        if let Some(secret) = &source.secret {
            let optional = secret.optional == Some(true);
            let content = sources.secret(&secret.name, optional).await?;
            select(files, content, secret.items.as_deref(), mode, optional)?;
        }
        if let Some(fields) = &source.downward_api {
            downward_files(files, pod, fields.items.as_deref(), mode)?;
        }
        if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(TOKEN_SECONDS).max(600);
            let known = current.map(|dir| dir.join(DATA).join(&token.path));
            let content = match known.as_deref().and_then(|path| fresh_token(path, seconds)) {
                Some(content) => content,
                None => {
                    let spec = pod.spec.as_ref();
                    let account = spec
                        .and_then(|spec| spec.service_account_name.as_deref())
                        .unwrap_or("default");
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                    sources
                        .token(account, token.audience.as_deref(), seconds, (name, uid))
                        .await?
                        .into_bytes()
                }
            };
            files.insert(token.path.clone(), (content, mode));
        }
    }
    Ok(())
}

/// A token that has lived less than 80 % of its time is kept, as the kubelet does.
fn fresh_token(path: &Path, seconds: i64) -> Option<Vec<u8>> {
    let age = fs::metadata(path).ok()?.modified().ok()?.elapsed().ok()?;
    (age.as_secs() < u64::try_from(seconds).ok()? * 4 / 5).then(|| fs::read(path).ok())?
}

fn select(
    files: &mut Payload,
    content: Option<Content>,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: bool,
) -> Result<(), VolumeError> {
    let mut content = content.unwrap_or_default();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        files.extend(content.into_iter().map(|(key, value)| (key, (value, mode))));
        return Ok(());
    };
    for item in items {
        let mode = item
            .mode
            .and_then(|mode| u32::try_from(mode).ok())
            .unwrap_or(mode);
        match content.remove(&item.key) {
            Some(value) => drop(files.insert(item.path.clone(), (value, mode))),
            None if optional => {}
            None => return Err(VolumeError::NoKey(item.key.clone())),
        }
    }
    Ok(())
}

fn downward_files(
    files: &mut Payload,
    pod: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    mode: u32,
) -> Result<(), VolumeError> {
    for item in items.unwrap_or_default() {
        let (value, asked) = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => (downward::field(pod, &field.field_path), field.field_path.clone()),
            (None, Some(resource)) => (downward::resource(pod, None, resource), resource.resource.clone()),
            (None, None) => (None, item.path.clone()),
        };
        let value = value.ok_or(VolumeError::Field(asked))?;
        let mode = item
            .mode
            .and_then(|mode| u32::try_from(mode).ok())
            .unwrap_or(mode);
        files.insert(item.path.clone(), (value.into_bytes(), mode));
    }
    Ok(())
}

/// Whether a path stays inside the directory it is relative to.
pub(crate) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Writes a volume's files so that readers see all old ones or all new ones: into a directory of its own, to which the link
/// `..data` is then moved. Files themselves are links into `..data`. Nothing happens if nothing changed.
fn publish(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    let io = |error| VolumeError::Io(dir.to_owned(), error);
    let data = dir.join(DATA);
    if data.exists() && is_current(&data, payload) {
        return Ok(());
    }
    let old = fs::read_link(&data).ok();
    let generation = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let target = dir.join(&generation);
    let write = || -> io::Result<()> {
        fs::create_dir_all(&target)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
        for (path, (content, mode)) in payload {
            let file = target.join(path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&file, content)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(*mode))?;
        }
        let link = dir.join("..data_new");
        crate::files::remove(&link)?;
        symlink(&generation, &link)?;
        fs::rename(&link, &data)?;
        let tops = |path: &String| path.split('/').next().unwrap_or_default().to_owned();
        let wanted: Vec<String> = payload.keys().map(tops).collect();
        for name in &wanted {
            if fs::symlink_metadata(dir.join(name)).is_err() {
                symlink(Path::new(DATA).join(name), dir.join(name))?;
            }
        }
        for entry in fs::read_dir(dir)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("..") && !wanted.contains(&name) {
                crate::files::remove(&entry.path())?;
            }
        }
        match old {
            Some(old) => crate::files::remove(&dir.join(old)),
            None => Ok(()),
        }
    };
    write().map_err(io)
}

fn is_current(data: &Path, payload: &Payload) -> bool {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries
            .map(|entry| {
                if entry.path().is_dir() {
                    count(&entry.path())
                } else {
                    1
                }
            })
            .sum()
    }
    count(data) == payload.len()
        && payload
            .iter()
            .all(|(path, (content, _))| fs::read(data.join(path)).is_ok_and(|now| now == *content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_swapped_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = |text: &str| (text.as_bytes().to_vec(), 0o640);
        let first = Payload::from([("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))]);
        publish(dir.path(), &first).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
        let generation = fs::read_link(dir.path().join(DATA)).unwrap();
        publish(dir.path(), &first).unwrap();
        assert_eq!(
            fs::read_link(dir.path().join(DATA)).unwrap(),
            generation,
            "unchanged content is left alone"
        );
        publish(dir.path(), &Payload::from([("a".to_owned(), file("3"))])).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join("d").exists() && !dir.path().join(generation).exists());
        let mode = fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn paths_stay_inside() {
        for (path, inside) in [
            ("a", true),
            ("a/b", true),
            ("../a", false),
            ("/a", false),
            ("a/../../b", false),
            ("", false),
        ] {
            assert_eq!(is_inside(path), inside, "{path}");
        }
    }

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let ask = |name: &str, kind: &str| {
            let path = dir.path().join(name).display().to_string();
            host_path(&HostPathVolumeSource {
                path,
                type_: Some(kind.to_owned()),
            })
            .is_ok()
        };
        let rows = [
            ("new", "Directory", false),
            ("new", "DirectoryOrCreate", true),
            ("new", "Directory", true),
            ("new", "File", false),
            ("file", "FileOrCreate", true),
            ("file", "File", true),
            ("file", "Socket", false),
            ("any", "", true),
            ("file", "Nonsense", false),
        ];
        for (name, kind, fits) in rows {
            assert_eq!(ask(name, kind), fits, "{name} {kind}");
        }
    }
}
