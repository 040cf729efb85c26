//! The metrics of a running service, read with curl.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use crate::{debian::output, process::until};

/// Address of the service as it is installed.
pub const URL: &str = "http://127.0.0.1:19435";

/// Connections by network, strategy and error. Those of curl itself, which are IPv4, are among them.
const CONNECTS: &str = "connect_trace_connects_total";

/// A service as curl reaches it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Command that runs curl, such as one that enters a namespace first.
    curl: String,
    url: String,
}

impl Service {
    /// Returns the service at this address of the host.
    pub fn at(url: &str) -> Self {
        Self {
            curl: "curl".to_owned(),
            url: url.to_owned(),
        }
    }

    /// Returns the same service, reached from the network namespace of a process.
    pub fn in_network_of(self, pid: u32) -> Self {
        Self {
            curl: format!("nsenter --target {pid} --net curl"),
            ..self
        }
    }

    /// Returns the answer to a request for a path.
    pub fn get(&self, path: &str) -> Result<String> {
        let Self { curl, url } = self;
        output(&format!("{curl} --silent --show-error --fail {url}{path}"))
    }

    /// Waits until the service says that it is ready.
    pub fn wait_until_ready(&self) -> Result<()> {
        let mut why = String::new();
        let ready = until("the service is ready", || match self.get("/readyz") {
            Ok(_) => Ok(Some(())),
            Err(error) => {
                why = format!("{error:#}");
                Ok(None)
            }
        });
        ready.with_context(|| why)
    }

    /// Returns the number of IPv6 connections so far. No test but the one that runs makes any.
    pub fn ipv6_connects(&self) -> Result<u64> {
        let text = self.get("/metrics")?;
        sum(&text, CONNECTS, r#"network_type="ipv6""#)
    }

    /// Waits until the service has counted this number of IPv6 connections, and checks that it counts no more.
    pub fn wait_for_ipv6_connects(&self, expected: u64) -> Result<()> {
        let mut seen = 0;
        let counted = until("all IPv6 connections are counted", || {
            seen = self.ipv6_connects()?;
            Ok((seen >= expected).then_some(()))
        });
        counted.with_context(|| format!("{seen} of {expected} are counted"))?;
        ensure!(seen == expected, "{seen} are counted instead of {expected}");
        Ok(())
    }
}

/// Returns the sum of the samples of a metric that have this label.
fn sum(text: &str, name: &str, label: &str) -> Result<u64> {
    let samples: BTreeMap<&str, &str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(sample, _)| sample.split('{').next() == Some(name))
        .collect();
    ensure!(!samples.is_empty(), "no {name} among the metrics:\n{text}");
    let with_label = samples.iter().filter(|(sample, _)| sample.contains(label));
    let values = with_label.map(|(sample, value)| {
        let value = value.parse::<u64>();
        value.with_context(|| format!("{sample} is not a whole number"))
    });
    values.sum()
}
