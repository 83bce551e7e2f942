//! The CNI specification, versions 0.3.0 to 1.1.0: environment and configuration in, results and errors out.
//! Pure: nothing here reads the process or talks to anybody, except [`Environment::from_process`].

use std::collections::BTreeMap;

use api::cni::{AddResponse, Attachment, code};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

/// Versions of the specification that the plugin speaks, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const NEWEST: &str = "1.1.0";

/// The environment of a plugin call; absent variables are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: String,
}

impl Environment {
    /// The environment of this process. A value that is not UTF-8 counts as absent.
    #[must_use]
    pub fn from_process() -> Self {
        let get = |name| std::env::var(name).unwrap_or_default();
        Self {
            command: get("CNI_COMMAND"),
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a sandbox.
    Add,
    /// Detach it.
    Del,
    /// Is it still attached as ADD left it?
    Check,
    /// Detach everything that is not listed.
    Gc,
    /// Can ADD be served?
    Status,
    /// Which versions are spoken?
    Version,
}

impl Command {
    const ALL: [Self; 6] = [
        Self::Add,
        Self::Del,
        Self::Check,
        Self::Gc,
        Self::Status,
        Self::Version,
    ];

    /// What `CNI_COMMAND` says.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// A network configuration, the part that is ours.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// Version of the specification the answer must have.
    #[serde(default, rename = "cniVersion")]
    pub version: String,
    /// Name of the network.
    #[serde(default)]
    pub name: String,
    /// MTU of the pod's device, bytes; 0: the agent's choice.
    #[serde(default)]
    pub mtu: u32,
    /// Where to note what was asked and what came of it; empty: nowhere.
    #[serde(default, rename = "log-file")]
    pub log_file: String,
    /// Result of ADD, for CHECK and DEL.
    #[serde(default, rename = "prevResult")]
    pub previous: Option<Value>,
    /// GC: what stays. `None`: the runtime does not say, which is not the same as an empty list; Go's libraries write
    /// an empty list as `null`.
    #[serde(
        default,
        rename = "cni.dev/valid-attachments",
        deserialize_with = "null_is_empty"
    )]
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Asks for masquerading on the host, which is the agent's business and not that of one pod.
    #[serde(default, rename = "ipMasq")]
    pub masquerade: bool,
    /// Asks for another plugin that gives addresses; ours come from the agent.
    #[serde(default)]
    pub ipam: Option<Value>,
}

/// Called only when the key is there.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Attachment>>, D::Error> {
    Option::deserialize(deserializer).map(|list| Some(list.unwrap_or_default()))
}

impl Config {
    /// The addresses of the previous result, with prefix length.
    #[must_use]
    pub fn previous_addresses(&self) -> Vec<String> {
        let ips = self
            .previous
            .as_ref()
            .and_then(|result| result.get("ips"))
            .and_then(Value::as_array);
        ips.into_iter()
            .flatten()
            .filter_map(|ip| ip.get("address")?.as_str().map(str::to_owned))
            .collect()
    }
}

/// A request that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// Which interface; empty for GC, STATUS and VERSION.
    pub attachment: Attachment,
    /// Path of the network namespace; may be empty for DEL, when the sandbox is gone.
    pub netns: String,
    /// Key and value pairs of `CNI_ARGS`.
    pub args: BTreeMap<String, String>,
    /// The network configuration.
    pub config: Config,
}

/// An error as the specification wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Version of the configuration, when it was readable.
    pub version: String,
    /// [`code`].
    pub code: u32,
    /// One line.
    pub message: String,
    /// More, for people who search.
    pub details: String,
}

impl Error {
    /// An error of the newest version, without details.
    #[must_use]
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            version: NEWEST.to_owned(),
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// Adds an error and everything that caused it.
    #[must_use]
    pub fn details(mut self, error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        self.details = text;
        self
    }

    /// Speaks the version of the request.
    #[must_use]
    pub fn version(mut self, request: &Request) -> Self {
        self.version.clone_from(&request.config.version);
        self
    }

    /// What is printed.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut error = json!({ "cniVersion": self.version, "code": self.code, "msg": self.message });
        if !self.details.is_empty() {
            error["details"] = json!(self.details);
        }
        error
    }
}

/// Reads a request, from whatever bytes the runtime sends.
pub fn parse(environment: &Environment, input: &[u8]) -> Result<Request, Error> {
    let command = match environment.command.as_str() {
        "" => return Err(bad_environment("CNI_COMMAND is missing")),
        name => Command::ALL
            .into_iter()
            .find(|command| command.name() == name)
            .ok_or_else(|| bad_environment(format!("CNI_COMMAND {name:?} is not known")))?,
    };
    let mut config = if command == Command::Version && input.iter().all(u8::is_ascii_whitespace) {
        Config::default()
    } else {
        // By way of a map, as serde would take a list for a struct.
        serde_json::from_slice::<Map<String, Value>>(input)
            .and_then(|object| serde_json::from_value(Value::Object(object)))
            .map_err(|error| {
                Error::new(code::DECODE, "the network configuration is not valid JSON").details(&error)
            })?
    };
    if command == Command::Version {
        if config.version.is_empty() {
            NEWEST.clone_into(&mut config.version);
        }
    } else {
        check_version(command, &config)?;
    }
    let version = config.version.clone();
    // From here on the version is one that we speak, so errors speak it too.
    complete(command, environment, config).map_err(|error| Error { version, ..error })
}

fn complete(command: Command, environment: &Environment, config: Config) -> Result<Request, Error> {
    let (attachment, args) = match command {
        Command::Add | Command::Del | Command::Check => {
            (attachment(environment)?, arguments(&environment.args)?)
        }
        Command::Gc | Command::Status | Command::Version => (Attachment::default(), BTreeMap::new()),
    };
    if matches!(command, Command::Add | Command::Check) && environment.netns.is_empty() {
        return Err(bad_environment("CNI_NETNS is missing"));
    }
    check_config(command, &config)?;
    Ok(Request {
        command,
        attachment,
        netns: environment.netns.clone(),
        args,
        config,
    })
}

/// What must be in a configuration, and what must not. DEL takes all, as it has to succeed whenever it can.
fn check_config(command: Command, config: &Config) -> Result<(), Error> {
    let bad = |message: &str| Err(Error::new(code::BAD_CONFIG, message));
    let unsupported = |key: &str, value: &Value| {
        let message = format!("{key}: {value} is not supported");
        Err(Error::new(code::UNSUPPORTED_FIELD, message))
    };
    if command != Command::Version && config.name.is_empty() {
        return bad("the network configuration has no name");
    }
    match command {
        Command::Add if config.previous.is_some() => {
            bad("the plugin makes the interface, so it must be the first of its chain")
        }
        Command::Add if config.masquerade => unsupported("ipMasq", &json!(true)),
        Command::Add => match config.ipam.as_ref().map(|ipam| &ipam["type"]) {
            None | Some(Value::Null) => Ok(()),
            Some(plugin) => unsupported("ipam.type", plugin),
        },
        Command::Check if config.previous.is_none() => bad("prevResult is missing: CHECK compares with it"),
        // An absent list taken for an empty one would detach every pod of the node.
        Command::Gc if config.valid_attachments.is_none() => bad("cni.dev/valid-attachments is missing"),
        Command::Del | Command::Check | Command::Gc | Command::Status | Command::Version => Ok(()),
    }
}

fn check_version(command: Command, config: &Config) -> Result<(), Error> {
    let since = match command {
        Command::Check => "0.4.0",
        Command::Gc | Command::Status => "1.1.0",
        Command::Add | Command::Del | Command::Version => VERSIONS[0],
    };
    let rank = |version: &str| VERSIONS.iter().position(|known| *known == version);
    let Some(asked) = rank(&config.version) else {
        let message = format!(
            "version {:?} is not supported, only {}",
            config.version,
            VERSIONS.join(", ")
        );
        return Err(Error::new(code::INCOMPATIBLE_VERSION, message));
    };
    if Some(asked) < rank(since) {
        let message = format!(
            "version {} of the specification does not have {}",
            config.version,
            command.name()
        );
        return Err(Error {
            version: config.version.clone(),
            ..Error::new(code::INCOMPATIBLE_VERSION, message)
        });
    }
    Ok(())
}

/// The names become file and link names, so they are held to what the specification allows.
fn attachment(environment: &Environment) -> Result<Attachment, Error> {
    let id = &environment.container_id;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if id.is_empty() {
        return Err(bad_environment("CNI_CONTAINERID is missing"));
    }
    if id.len() > 128 || !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(allowed) {
        return Err(bad_environment("CNI_CONTAINERID is not a container id"));
    }
    let name = &environment.ifname;
    if name.is_empty() {
        return Err(bad_environment("CNI_IFNAME is missing"));
    }
    // Linux `dev_valid_name`, IFNAMSIZ 16 with the terminating zero.
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.len() > 15 || name == "." || name == ".." || name.contains(bad) {
        return Err(bad_environment("CNI_IFNAME is not an interface name"));
    }
    Ok(Attachment {
        container_id: id.clone(),
        ifname: name.clone(),
    })
}

fn arguments(text: &str) -> Result<BTreeMap<String, String>, Error> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(bad_environment(format!("CNI_ARGS: {pair:?} is not KEY=VALUE"))),
        })
        .collect()
}

fn bad_environment(message: impl Into<String>) -> Error {
    Error::new(code::BAD_ENVIRONMENT, message)
}

/// The answer to VERSION.
#[must_use]
pub fn versions(request: &Request) -> Value {
    json!({ "cniVersion": request.config.version, "supportedVersions": VERSIONS })
}

/// The result of ADD in the version of the request: before 1.0.0 addresses name their family, and only 1.1.0 has
/// the MTU of interfaces and routes.
#[must_use]
pub fn result(request: &Request, made: &AddResponse) -> Value {
    let version = request.config.version.as_str();
    let mtu = |mut object: Value, mtu: u32| {
        if version == "1.1.0" && mtu != 0 {
            object["mtu"] = json!(mtu);
        }
        object
    };
    let host = json!({ "name": made.host.name, "mac": made.host.mac });
    let inside = json!({ "name": made.container.name, "mac": made.container.mac, "sandbox": request.netns });
    let ips = made.addresses.iter().map(|address| {
        let mut ip = json!({ "address": address.address, "gateway": address.gateway, "interface": 1 });
        if version.starts_with("0.") {
            ip["version"] = json!(if address.address.contains(':') { "6" } else { "4" });
        }
        ip
    });
    let routes = made.routes.iter().map(|route| {
        let mut object = json!({ "dst": route.dst });
        if !route.gw.is_empty() {
            object["gw"] = json!(route.gw);
        }
        mtu(object, route.mtu)
    });
    json!({
        "cniVersion": version,
        "interfaces": [mtu(host, made.host.mtu), mtu(inside, made.container.mtu)],
        "ips": ips.collect::<Vec<_>>(),
        "routes": routes.collect::<Vec<_>>(),
        "dns": {},
    })
}
