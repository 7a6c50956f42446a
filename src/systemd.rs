//! sd_notify(3) without a library: one datagram to the socket that systemd names. Without
//! systemd nothing is sent.

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::base::log;

pub(crate) struct Systemd(Option<(UnixDatagram, SocketAddr)>);

impl Systemd {
    pub(crate) fn from_env() -> Systemd {
        let Ok(path) = env::var("NOTIFY_SOCKET") else {
            return Systemd(None);
        };
        // `@` means the zero byte that begins an abstract name.
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&path),
        };
        match address.and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(socket) => Systemd(Some(socket)),
            Err(err) => {
                log::warning!("", "cannot reach systemd at {path}: {err}");
                Systemd(None)
            }
        }
    }

    /// Sends `READY=1` or `WATCHDOG=1`. Errors are ignored: the next `WATCHDOG=1` is enough.
    pub(crate) fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.0 {
            socket.send_to_addr(state.as_bytes(), address).ok();
        }
    }
}
