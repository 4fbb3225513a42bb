//! What a SluiceConfig says of the Gateways that it is for, and who refers to one.

use std::sync::Arc;
use std::time::Duration;

use super::Meta;
use crate::addresses::Pool;
use crate::ir::http::{Drain, Settings, Which};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SluiceConfig {
    pub meta: Meta,
    /// What is wrong with it is for those who refer to it.
    pub parameters: Result<Parameters, Box<str>>,
}

/// Field by field; what is not said is left to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    pub pool: Option<Arc<Pool>>,
    /// Of HTTP and HTTPS listeners.
    pub settings: Box<[Setting]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Setting {
    TrustedHops(u8),
    ProxyProtocol(bool),
    Drain(Duration),
    AccessLog(Which),
    Connections(usize),
    HeaderBytes(usize),
    Headers(usize),
    UriBytes(usize),
    HeaderTime(Duration),
    BodyIdle(Duration),
    StreamIdle(Duration),
    Idle(Duration),
    Streams(u32),
    PendingResets(usize),
}

impl Parameters {
    /// These, and what others say where these say nothing.
    pub fn over(&self, others: &Parameters) -> Parameters {
        let pool = self.pool.as_ref().or(others.pool.as_ref()).map(Arc::clone);
        // The last one counts.
        Parameters { pool, settings: others.settings.iter().chain(&self.settings).cloned().collect() }
    }

    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        self.settings.iter().for_each(|setting| setting.apply(&mut settings));
        settings
    }
}

impl Setting {
    fn apply(&self, settings: &mut Settings) {
        let limits = &mut settings.limits;
        match *self {
            Setting::TrustedHops(hops) => settings.trusted_hops = hops,
            Setting::ProxyProtocol(wanted) => settings.proxy_protocol = wanted,
            Setting::Drain(time) => settings.drain = Drain(time),
            Setting::AccessLog(logged) => settings.logged = Some(logged),
            Setting::Connections(most) => limits.connections = most,
            Setting::HeaderBytes(most) => limits.header_bytes = most,
            Setting::Headers(most) => limits.headers = most,
            Setting::UriBytes(most) => limits.uri_bytes = most,
            Setting::HeaderTime(time) => limits.header_time = time,
            Setting::BodyIdle(time) => limits.body_idle = time,
            Setting::StreamIdle(time) => limits.stream_idle = time,
            Setting::Idle(time) => limits.idle = time,
            Setting::Streams(most) => limits.streams = most,
            Setting::PendingResets(most) => limits.pending_resets = most,
        }
    }
}

/// `parametersRef` of a GatewayClass, or of a Gateway's `infrastructure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParametersRef {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// `None`: for a Gateway its own.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}
