//! Connections: TCP, TLS, proxies, name look-up; HTTP and WebSockets over them.
//!
//! - Enters: an address and a `Stop`, from `slack` and `llm`.
//! - Leaves: HTTP answers and WebSocket streams; a stop ends every wait at once.
//! - State: one TLS configuration and the proxy, in `Net`.

mod connect;
mod http;
mod tls;

pub(crate) use connect::*;
pub(crate) use http::{HttpLimits, header, retry_after};
