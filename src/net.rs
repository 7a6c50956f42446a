//! HTTP as the rest of mom sees it. A sketch: plain HTTP, limits, no TLS, no proxy, no stop.

use std::time::Duration;

use crate::stop::Stop;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Net;

/// How long a server may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Until the response's first byte.
    pub(crate) first_byte: Duration,
    /// Between two bytes of the body.
    pub(crate) idle: Duration,
}

impl Net {
    /// An agent for one call, whose reads and waits end when `stop` is set.
    pub(crate) fn agent(&self, _stop: &Stop, limits: Limits) -> ureq::Agent {
        ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_per_read(Some(limits.first_byte.max(limits.idle)))
            .build()
            .into()
    }
}
