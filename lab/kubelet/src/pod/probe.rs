//! Startup, readiness and liveness probes of one running container.

use std::{net::IpAddr, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use super::http;
use crate::{context::Context, exec};

/// Which probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What probes tell the worker.
#[derive(Debug)]
pub(crate) enum News {
    /// The startup probe succeeded.
    Started,
    /// Readiness changed.
    Ready(bool),
    /// One failure, for an event.
    Failure(Kind, String),
    /// The container must be killed.
    Unhealthy(Kind),
}

/// News of one container's probes.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) container: String,
    pub(crate) id: String,
    pub(crate) news: News,
}

/// Whom to probe.
pub(crate) struct Target {
    pub(crate) context: Arc<Context>,
    pub(crate) container: Container,
    pub(crate) id: String,
    pub(crate) address: IpAddr,
    /// After a kubelet restart: what was known before.
    pub(crate) started: bool,
    pub(crate) reports: mpsc::Sender<Report>,
}

/// Counts results as thresholds ask: pure.
#[derive(Debug)]
struct Threshold {
    success: u32,
    failure: u32,
    row: u32,
    last: Option<bool>,
}

impl Threshold {
    fn new(probe: &Probe) -> Self {
        let number = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .unwrap_or(default)
                .max(1)
        };
        Self {
            success: number(probe.success_threshold, 1),
            failure: number(probe.failure_threshold, 3),
            row: 0,
            last: None,
        }
    }

    /// The verdict, once there are enough equal results in a row.
    fn count(&mut self, result: bool) -> Option<bool> {
        self.row = if self.last == Some(result) {
            self.row.saturating_add(1)
        } else {
            1
        };
        self.last = Some(result);
        (self.row >= if result { self.success } else { self.failure }).then_some(result)
    }
}

impl Target {
    /// Probes until the container is dropped by its worker.
    pub(crate) async fn run(self) {
        if let Some(probe) = self.container.startup_probe.clone()
            && !self.started
        {
            self.repeat(Kind::Startup, &probe).await;
        }
        let (liveness, readiness) = (
            self.container.liveness_probe.clone(),
            self.container.readiness_probe.clone(),
        );
        let one = async {
            if let Some(probe) = liveness {
                self.repeat(Kind::Liveness, &probe).await;
            }
        };
        let other = async {
            if let Some(probe) = readiness {
                self.repeat(Kind::Readiness, &probe).await;
            }
        };
        tokio::join!(one, other);
    }

    /// Probes again and again; ends when the startup probe succeeded or the container must be killed.
    async fn repeat(&self, kind: Kind, probe: &Probe) {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .unwrap_or(default),
            )
        };
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let within = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let mut threshold = Threshold::new(probe);
        let mut next = Instant::now() + seconds(probe.initial_delay_seconds, 0);
        loop {
            sleep_until(next).await;
            next = Instant::now() + period;
            let result = match timeout(within, self.once(probe, within)).await {
                Ok(result) => result,
                Err(_) => Err("context deadline exceeded".to_owned()),
            };
            if let Err(why) = &result {
                self.tell(News::Failure(kind, why.clone())).await;
            }
            match (threshold.count(result.is_ok()), kind) {
                (Some(true), Kind::Startup) => return self.tell(News::Started).await,
                (Some(ready), Kind::Readiness) => self.tell(News::Ready(ready)).await,
                (Some(false), _) => return self.tell(News::Unhealthy(kind)).await,
                _ => {}
            }
        }
    }

    async fn tell(&self, news: News) {
        let report = Report {
            container: self.container.name.clone(),
            id: self.id.clone(),
            news,
        };
        let _ = self.reports.send(report).await;
    }

    async fn once(&self, probe: &Probe, within: Duration) -> Result<(), String> {
        if let Some(action) = &probe.exec {
            let command = action.command.clone().unwrap_or_default();
            let ended = exec::capture(&self.context, &self.id, &command, within).await;
            return match ended {
                Ok((0, _)) => Ok(()),
                Ok((_, output)) => Err(output),
                Err(error) => Err(error.to_string()),
            };
        }
        if let Some(action) = &probe.http_get {
            return http::get(action, &self.container, self.address).await;
        }
        if let Some(action) = &probe.tcp_socket {
            let host = action.host.as_deref();
            let address = http::socket_address(host, &action.port, &self.container, self.address)?;
            return http::dial(address).await.map(drop);
        }
        if probe.grpc.is_some() {
            return Err("gRPC probes are not offered by the lab".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Probe::default()
        };
        let mut threshold = Threshold::new(&probe);
        let results = [true, true, true, false, false, true, false, false, false, false];
        let verdicts = results.map(|result| threshold.count(result));
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, yes, yes, None, None, None, None, None, no, no]);
    }
}
