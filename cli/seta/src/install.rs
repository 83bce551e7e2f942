//! `seta install`, and what it shares with `seta upgrade`: from values to objects in the cluster.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use model::config::{AgentConfig, Warning};
use serde_json::Value;

use crate::apply::{Applier, Change, describe};
use crate::chart::{self, Manifest};
use crate::cli::Global;
use crate::cluster::{self, Cluster, Told as _, detect};
use crate::failure::{EXIT_CODES, Failure};
use crate::progress::{output, step};
use crate::release::{History, Release, same_object};
use crate::settings::{self, Settings};
use crate::{config, status};

const EXAMPLES: &str = "\
Examples:
  seta install
  seta install --set ipv6NativeRoutingCIDR=fd00:10::/32 --set debug.enabled=true --wait
  seta install -f values.yaml --dry-run | kubectl diff -f -

What --set takes are the names of the Helm chart of Cilium. A name that does not exist is an error \
that suggests the nearest; one that is not implemented yet is refused with the reason. The same \
chart lies in deploy/chart, for `helm install cilium deploy/chart -n kube-system`.";

/// Flags of `seta install`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(flatten)]
    rollout: Rollout,
}

/// Flags of everything that brings a revision to a cluster: which values, and how far to go.
#[derive(Args, Clone, Debug)]
pub(crate) struct Rollout {
    #[command(flatten)]
    pub(crate) settings: Settings,
    /// Print the objects instead of applying them
    #[arg(long)]
    dry_run: bool,
    /// Print the values, the detected ones among them, instead of applying anything
    #[arg(long, conflicts_with = "dry_run")]
    dry_run_helm_values: bool,
    /// Wait until every agent is ready
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    wait_duration: Duration,
    /// Take over objects that another installation made
    #[arg(long)]
    pub(crate) force: bool,
}

/// A duration as Go and Cilium spell it: 90s, 5m, 1h30m.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    model::config::parse_duration(text)
        .ok_or_else(|| format!("{text:?} is no duration; write 90s, 5m or 1h30m"))
}

/// Runs `seta install`.
pub(crate) async fn run(global: &Global, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let rollout = arguments.rollout;
    let user = rollout.settings.read()?;
    // A mistake in the values is told before the cluster is asked anything.
    settings::complete(&user)?;
    let cluster = cluster::connect(global).await?;
    let history = History::of(&cluster);
    let last = history.last().await?;
    let Some(plan) = rollout.plan(&cluster, user, last.as_ref()).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    refuse_others(&cluster, last.as_ref(), rollout.force).await?;

    step("ℹ️ ", format_args!("Using Seta {}", env!("CARGO_PKG_VERSION")));
    deploy(&cluster, &history, &plan, rollout.force).await?;
    step(
        "✅",
        format_args!("Seta was installed in namespace {}", cluster.namespace),
    );
    if !rollout.wait {
        eprintln!("   `seta status --wait` waits until every agent is ready");
    }
    rollout.settle(&cluster).await
}

/// What is to be deployed.
pub(crate) struct Plan {
    /// Number of the revision.
    pub(crate) revision: u32,
    /// What the user set, and what was detected.
    user: Value,
    /// The objects.
    manifests: Vec<Manifest>,
    /// When the first revision was deployed.
    first_deployed: Option<String>,
}

impl Rollout {
    /// From the values of the user to objects that would work on this cluster. Nothing when they were only to be
    /// printed, which is done then.
    pub(crate) async fn plan(
        &self,
        cluster: &Cluster,
        mut user: Value,
        last: Option<&Release>,
    ) -> anyhow::Result<Option<Plan>> {
        let facts = detect::facts(cluster).await.told("looking at the cluster")?;
        for line in detect::autodetect(&facts, &mut user) {
            eprintln!("{line}");
        }
        let values = settings::complete(&user)?;
        object_to(&facts, &values)?;
        if self.dry_run_helm_values {
            output(&serde_saphyr::to_string(&user)?)?;
            return Ok(None);
        }
        let revision = last.map_or(1, |last| last.revision() + 1);
        let manifests = render(cluster, &values, revision)?;
        if self.dry_run {
            output(&chart::stream(&manifests))?;
            return Ok(None);
        }
        Ok(Some(Plan {
            revision,
            user,
            manifests,
            first_deployed: last.and_then(Release::first_deployed).map(str::to_owned),
        }))
    }

    /// Waits for the agents if that was asked for.
    pub(crate) async fn settle(&self, cluster: &Cluster) -> anyhow::Result<ExitCode> {
        if self.wait {
            status::wait(cluster, self.wait_duration).await
        } else {
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Refuses values that cannot work on this cluster.
fn object_to(facts: &detect::Facts, values: &Value) -> anyhow::Result<()> {
    let objections = detect::objections(facts, values);
    if objections.is_empty() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "this cannot work here, nothing was changed:\n  {}",
        objections.join("\n  ")
    ))
    .into())
}

/// Renders the chart, and has the agent's own parser read what it would be given.
fn render(cluster: &Cluster, values: &Value, revision: u32) -> anyhow::Result<Vec<Manifest>> {
    let manifests = chart::render(
        values,
        chart::Release {
            namespace: &cluster.namespace,
            revision,
        },
    )?;
    let config = chart::config(&manifests);
    let (_, warnings) =
        AgentConfig::parse(&config).map_err(|problems| Failure::Usage(problems.to_string()))?;
    let inactive = settings::not_active(&config)?;
    for entry in &inactive {
        step(
            "⚠️ ",
            format_args!(
                "{}={} is accepted and not active yet: {}",
                entry.path, entry.when, entry.text
            ),
        );
    }
    for warning in warnings {
        let told = matches!(&warning, Warning::NotInEffect { key, .. } if inactive.iter().any(|entry| entry.key == *key));
        if !told {
            step("⚠️ ", warning);
        }
    }
    Ok(manifests)
}

/// Two installations under the same names would fight.
async fn refuse_others(cluster: &Cluster, last: Option<&Release>, force: bool) -> anyhow::Result<()> {
    if let Some(last) = last {
        if last.is_ours() && last.status() == "deployed" {
            return Err(Failure::Usage(format!(
                "Seta is installed already (revision {}); change it with `seta upgrade`",
                last.revision()
            ))
            .into());
        }
        if !last.is_ours() && !force {
            return Err(Failure::Usage(format!(
                "Cilium {} is installed as Helm release `cilium` in namespace {}; remove it first (`helm uninstall cilium -n {1}`), or take its objects over with --force",
                last.chart_version(),
                cluster.namespace,
            ))
            .into());
        }
        return Ok(());
    }
    let daemonsets = Api::<DaemonSet>::namespaced(cluster.client.clone(), &cluster.namespace);
    if let Some(found) = daemonsets
        .get_opt("cilium")
        .await
        .told("looking at DaemonSet cilium")?
        && !force
    {
        let image = found
            .spec
            .template
            .spec
            .and_then(|pod| pod.containers.into_iter().next())
            .and_then(|container| container.image)
            .unwrap_or_else(|| "unknown".to_owned());
        return Err(Failure::Usage(format!(
            "there is a DaemonSet `cilium` in namespace {} (image {image}) that was not installed by `seta install`; remove it first, or take it over with --force",
            cluster.namespace
        ))
        .into());
    }
    Ok(())
}

/// Brings a revision to the cluster. Everything is checked by the API server before anything is changed; the revision
/// is remembered as pending before, and as deployed or failed after.
pub(crate) async fn deploy(
    cluster: &Cluster,
    history: &History,
    plan: &Plan,
    force: bool,
) -> anyhow::Result<()> {
    let Plan {
        revision,
        user,
        manifests,
        first_deployed,
    } = plan;
    let applier = Applier::new(cluster.client.clone(), &cluster.namespace, force);
    let previous = history.objects().await?;
    for manifest in manifests {
        let old = previous.iter().find(|old| same_object(old, &manifest.object));
        applier
            .check(&manifest.object, old)
            .await
            .context("nothing was changed")?;
    }
    let now = Timestamp::now().to_string();
    let release = Release::new(
        &cluster.namespace,
        *revision,
        user,
        manifests,
        first_deployed.as_deref(),
        &now,
    )?;
    history.create(&release).await.context("nothing was changed")?;

    let mut done = Vec::new();
    match apply_all(&applier, manifests, &previous, &mut done).await {
        Ok(()) => {
            history.deployed(release).await?;
            // What `seta config set` changed is put right in the ConfigMap only: nothing else makes the agents read it.
            let changed = |name: &str| done.iter().any(|done| done == name);
            if changed("ConfigMap cilium-config") && !changed("DaemonSet cilium") {
                config::restart_pods(cluster).await?;
                step("♻️ ", "Restarted Cilium pods");
            }
            Ok(())
        }
        Err(error) => {
            // The first error is the one to tell; that the release could not be marked as failed changes nothing.
            let _ = history
                .update(&release.with_status("failed", &format!("{error:#}")))
                .await;
            let done = if done.is_empty() {
                "nothing".to_owned()
            } else {
                done.join(", ")
            };
            Err(error.context(format!(
                "changed so far: {done}. Correct the cause and run the command again, or undo with `seta uninstall`"
            )))
        }
    }
}

async fn apply_all(
    applier: &Applier,
    manifests: &[Manifest],
    previous: &[Value],
    done: &mut Vec<String>,
) -> anyhow::Result<()> {
    for manifest in manifests {
        let object = &manifest.object;
        let name = describe(object);
        let change = applier
            .apply(object, previous.iter().find(|old| same_object(old, object)))
            .await?;
        match change {
            Change::Created => step("🚀", format_args!("Created {name}")),
            Change::Configured => step("🔧", format_args!("Changed {name}")),
            Change::Unchanged => {}
        }
        if change != Change::Unchanged {
            done.push(name);
        }
    }
    for old in previous {
        if !manifests
            .iter()
            .any(|manifest| same_object(&manifest.object, old))
            && applier.delete(old).await?
        {
            let name = describe(old);
            step("🔥", format_args!("Deleted {name}"));
            done.push(name);
        }
    }
    Ok(())
}

/// The values of a release that is there, for `upgrade` and for `config`.
pub(crate) fn installed(last: Option<Release>) -> anyhow::Result<Release> {
    let last = last.ok_or_else(|| anyhow!("Seta is not installed here; install it with `seta install`"))?;
    if last.is_ours() {
        Ok(last)
    } else {
        Err(anyhow!(
            "the Helm release `cilium` is Cilium {}, not Seta",
            last.chart_version()
        ))
    }
}
