//! The network configuration and the calls of its plugins, as a container runtime makes them (CNI specification 1.1).

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// How long one plugin may take.
const PLUGIN_WITHIN: Duration = Duration::from_secs(60);
/// The pod's device.
const IFNAME: &str = "eth0";

/// A network: a configuration list, or a single configuration made into one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) version: String,
    disable_check: bool,
    plugins: Vec<Map<String, Value>>,
}

/// Why there is no network. The texts are those of the container runtime, people search for them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfError {
    #[error("cni plugin not initialized")]
    None,
    #[error("cni config load failed: {0}: {1}")]
    Invalid(PathBuf, &'static str),
    #[error("cni config load failed: {0}")]
    Read(PathBuf, #[source] std::io::Error),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CniError {
    #[error("failed to find plugin \"{plugin}\" in path [{path}]")]
    NotFound { plugin: String, path: PathBuf },
    #[error("plugin type=\"{plugin}\" failed ({command}): {message}")]
    Plugin {
        plugin: String,
        command: &'static str,
        /// The error code of the specification, if the plugin gave one.
        code: Option<u32>,
        message: String,
    },
    #[error("plugin type=\"{plugin}\" failed ({command})")]
    Io {
        plugin: String,
        command: &'static str,
        source: std::io::Error,
    },
    #[error("plugin type=\"{plugin}\" failed ({command}): no answer within {PLUGIN_WITHIN:?}")]
    Timeout { plugin: String, command: &'static str },
}

/// "Try again later" in the specification's list of error codes.
const TRY_AGAIN: u32 = 11;

impl CniError {
    /// Whether the plugin has spoken about the attachment itself; everything else may be different a moment later.
    pub(crate) fn is_verdict(&self) -> bool {
        matches!(self, Self::Plugin { code: Some(code), .. } if *code != TRY_AGAIN)
    }
}

/// Whom a call is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) container_id: String,
    pub(crate) netns: PathBuf,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
    /// For plugins with the capability `portMappings`.
    #[serde(default)]
    pub(crate) port_mappings: Vec<Value>,
}

/// The network of the first valid configuration in the directory, by name.
pub(crate) fn load(dir: &Path) -> Result<Network, ConfError> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| is_conf(path))
        .collect();
    files.sort();
    let mut first_error = None;
    for path in files {
        let loaded = std::fs::read(&path)
            .map_err(|error| ConfError::Read(path.clone(), error))
            .and_then(|text| parse(&text).map_err(|why| ConfError::Invalid(path.clone(), why)));
        match loaded {
            Ok(network) => return Ok(network),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Err(first_error.unwrap_or(ConfError::None))
}

fn is_conf(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "conflist" || extension == "conf" || extension == "json")
}

/// The network in the text of a configuration file.
pub(crate) fn parse(text: &[u8]) -> Result<Network, &'static str> {
    let mut conf: Map<String, Value> = serde_json::from_slice(text).map_err(|_| "not a JSON object")?;
    let text =
        |conf: &Map<String, Value>, key: &str| conf.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = text(&conf, "name")
        .filter(|name| !name.is_empty())
        .ok_or("no name")?;
    let version = text(&conf, "cniVersion").unwrap_or_else(|| "0.2.0".to_owned());
    let disable_check = conf.get("disableCheck").and_then(Value::as_bool).unwrap_or(false);
    let plugins = match conf.remove("plugins") {
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|plugin| match plugin {
                Value::Object(plugin) => Ok(plugin),
                _ => Err("a plugin is not an object"),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("plugins is not a list"),
        None => vec![conf],
    };
    // A `type` with a slash would leave the directory of plugins.
    let has_type = |plugin: &Map<String, Value>| {
        plugin
            .get("type")
            .and_then(Value::as_str)
            .is_some_and(|kind| !kind.is_empty() && !kind.contains('/'))
    };
    match plugins.is_empty() || !plugins.iter().all(has_type) {
        true => Err("no plugins, or one without a type"),
        false => Ok(Network {
            name,
            version,
            disable_check,
            plugins,
        }),
    }
}

/// Calls plugins of a network from one directory.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) bin_dir: PathBuf,
}

impl Caller {
    /// Attaches: every plugin in order, each with the result of the one before. The answer is the last result.
    /// After a failure everything is detached again, as the container runtime does.
    pub(crate) async fn add(&self, network: &Network, attachment: &Attachment) -> Result<Value, CniError> {
        let mut result = None;
        for plugin in &network.plugins {
            match self
                .call("ADD", network, plugin, Some(attachment), result.as_ref(), &[])
                .await
            {
                Ok(answer) => result = Some(answer),
                Err(error) => {
                    let _ = self.del(network, attachment, result.as_ref()).await;
                    return Err(error);
                }
            }
        }
        Ok(result.unwrap_or_default())
    }

    /// Detaches: every plugin in reverse order, each with the result of ADD. All are called, the first error counts.
    pub(crate) async fn del(
        &self,
        network: &Network,
        attachment: &Attachment,
        result: Option<&Value>,
    ) -> Result<(), CniError> {
        let mut outcome = Ok(());
        for plugin in network.plugins.iter().rev() {
            let done = self
                .call("DEL", network, plugin, Some(attachment), result, &[])
                .await
                .map(drop);
            outcome = outcome.and(done);
        }
        outcome
    }

    /// Asks whether an attachment is still as ADD left it.
    pub(crate) async fn check(
        &self,
        network: &Network,
        attachment: &Attachment,
        result: &Value,
    ) -> Result<(), CniError> {
        if network.disable_check || !at_least(&network.version, 0, 4) {
            return Ok(());
        }
        for plugin in &network.plugins {
            self.call("CHECK", network, plugin, Some(attachment), Some(result), &[])
                .await?;
        }
        Ok(())
    }

    /// Tells plugins which attachments are valid; the others may be cleaned up.
    pub(crate) async fn gc(&self, network: &Network, valid: &[Attachment]) -> Result<(), CniError> {
        if !at_least(&network.version, 1, 1) {
            return Ok(());
        }
        for plugin in &network.plugins {
            self.call("GC", network, plugin, None, None, valid).await?;
        }
        Ok(())
    }

    /// Asks whether ADD would work now.
    pub(crate) async fn status(&self, network: &Network) -> Result<(), CniError> {
        if !at_least(&network.version, 1, 1) {
            return Ok(());
        }
        for plugin in &network.plugins {
            self.call("STATUS", network, plugin, None, None, &[]).await?;
        }
        Ok(())
    }

    async fn call(
        &self,
        command: &'static str,
        network: &Network,
        plugin: &Map<String, Value>,
        attachment: Option<&Attachment>,
        previous: Option<&Value>,
        valid: &[Attachment],
    ) -> Result<Value, CniError> {
        let kind = plugin
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let path = self.bin_dir.join(&kind);
        if !path.exists() {
            return Err(CniError::NotFound {
                plugin: kind,
                path: self.bin_dir.clone(),
            });
        }
        let mut conf = request(network, plugin, attachment, previous);
        if command == "GC" {
            let list = valid
                .iter()
                .map(|one| json!({"containerID": one.container_id, "ifname": IFNAME}));
            conf.insert("cni.dev/valid-attachments".to_owned(), list.collect());
        }
        let mut process = Command::new(&path);
        process.envs(environment(command, &self.bin_dir, attachment));
        process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let io = |source| CniError::Io {
            plugin: kind.clone(),
            command,
            source,
        };
        let work = async {
            let mut child = process.spawn().map_err(io)?;
            if let Some(mut stdin) = child.stdin.take() {
                // A plugin that does not read its input says why by its exit.
                let _ = stdin.write_all(Value::Object(conf).to_string().as_bytes()).await;
            }
            child.wait_with_output().await.map_err(io)
        };
        let output = timeout(PLUGIN_WITHIN, work)
            .await
            .map_err(|_| CniError::Timeout {
                plugin: kind.clone(),
                command,
            })??;
        if !output.status.success() {
            let (code, message) = error_message(&output.stdout, &output.stderr);
            return Err(CniError::Plugin {
                plugin: kind,
                command,
                code,
                message,
            });
        }
        if command != "ADD" {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|error| CniError::Plugin {
            plugin: kind,
            command,
            code: None,
            message: format!("its result is not JSON: {error}"),
        })
    }
}

/// The plugin's standard input.
fn request(
    network: &Network,
    plugin: &Map<String, Value>,
    attachment: Option<&Attachment>,
    previous: Option<&Value>,
) -> Map<String, Value> {
    let mut conf = plugin.clone();
    conf.insert("name".to_owned(), json!(network.name));
    conf.insert("cniVersion".to_owned(), json!(network.version));
    if let Some(previous) = previous {
        conf.insert("prevResult".to_owned(), previous.clone());
    }
    let capable =
        |name: &str| plugin.get("capabilities").and_then(|map| map.get(name)) == Some(&Value::Bool(true));
    // Only the runtime knows capabilities; the plugin gets what they stand for.
    conf.remove("capabilities");
    if let Some(attachment) = attachment
        && capable("portMappings")
        && !attachment.port_mappings.is_empty()
    {
        conf.insert(
            "runtimeConfig".to_owned(),
            json!({"portMappings": attachment.port_mappings}),
        );
    }
    conf
}

fn environment(
    command: &str,
    bin_dir: &Path,
    attachment: Option<&Attachment>,
) -> BTreeMap<&'static str, String> {
    let mut env = BTreeMap::from([
        ("CNI_COMMAND", command.to_owned()),
        ("CNI_PATH", bin_dir.display().to_string()),
    ]);
    if let Some(one) = attachment {
        env.insert("CNI_CONTAINERID", one.container_id.clone());
        env.insert("CNI_NETNS", one.netns.display().to_string());
        env.insert("CNI_IFNAME", IFNAME.to_owned());
        let args = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
            one.namespace, one.pod, one.container_id, one.uid
        );
        env.insert("CNI_ARGS", args);
    }
    env
}

/// Code and text of a plugin that failed, from what it printed.
pub(crate) fn error_message(stdout: &[u8], stderr: &[u8]) -> (Option<u32>, String) {
    #[derive(Deserialize)]
    struct PluginError {
        #[serde(default)]
        code: Option<u32>,
        msg: String,
        #[serde(default)]
        details: String,
    }
    if let Ok(error) = serde_json::from_slice::<PluginError>(stdout) {
        let message = match error.details.is_empty() {
            true => error.msg,
            false => format!("{}; {}", error.msg, error.details),
        };
        return (error.code, message);
    }
    let text = [stdout, stderr]
        .map(String::from_utf8_lossy)
        .map(|text| text.trim().to_owned());
    let message = format!(
        "netplugin failed with no error message: {}",
        text.join(" ").trim()
    );
    (None, message)
}

/// The pod's addresses in a result.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result.get("ips").and_then(Value::as_array).into_iter().flatten();
    let texts = ips.filter_map(|ip| ip.get("address").and_then(Value::as_str));
    texts
        .filter_map(|text| text.split('/').next()?.parse().ok())
        .collect()
}

fn at_least(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
}

#[cfg(test)]
mod tests;
