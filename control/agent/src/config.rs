//! Reading the configuration: a directory with one file per key, as Kubernetes mounts a ConfigMap.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use model::AgentConfig;
use model::config::{Problems, Warning};

/// Longest value that is read; a ConfigMap as a whole has at most 1 MiB.
const MAX_VALUE: u64 = 1 << 20;

/// The configuration cannot be used; the agent ends with code 64 (`EX_USAGE`).
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The directory or a file in it cannot be read.
    #[error("reading the configuration from {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Values are wrong.
    #[error(transparent)]
    Values(#[from] Problems),
}

/// Reads and checks the configuration.
pub(crate) fn read(directory: &Path) -> Result<(AgentConfig, Vec<Warning>), ConfigError> {
    Ok(AgentConfig::parse(&keys(directory)?)?)
}

fn keys(directory: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ConfigError::Read { path, source }
    };
    let mut keys = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        // A mounted ConfigMap keeps its versions in `..data` and directories beside it.
        if name.starts_with("..") {
            continue;
        }
        let metadata = fs::metadata(&path).map_err(failed(&path))?;
        if !metadata.is_file() {
            continue;
        }
        if metadata.len() > MAX_VALUE {
            return Err(failed(&path)(io::Error::from(io::ErrorKind::FileTooLarge)));
        }
        let value = fs::read_to_string(&path).map_err(failed(&path))?;
        keys.insert(name, value.trim_end_matches('\n').to_owned());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(keys: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for (key, value) in keys {
            fs::write(directory.path().join(key), value).expect("written");
        }
        directory
    }

    #[test]
    fn keys_are_files() {
        let directory = directory(&[("routing-mode", "native\n"), ("enable-ipv6", "true")]);
        fs::create_dir(directory.path().join("..2026_data")).expect("a directory");
        let (config, warnings) = read(directory.path()).expect("a configuration");
        assert!(config.enable_ipv6 && warnings.is_empty());
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let bad = directory(&[("routing-mode", "tunnel"), ("mtu", "many")]);
        let error = read(bad.path()).expect_err("refused").to_string();
        assert!(error.contains("routing-mode") && error.contains("mtu"), "{error}");
        let missing = bad.path().join("missing");
        assert!(matches!(read(&missing), Err(ConfigError::Read { .. })));
    }
}
