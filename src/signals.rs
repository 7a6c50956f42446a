//! SIGTERM and SIGINT: `watch` calls a function, which sets a `Stop`, so that threads that wait in
//! poll(2) wake up; a second signal ends the program at once. SIGHUP is ignored: there is nothing
//! to reload, and a closed terminal must not end the bot.

use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::base::error::{Error, Result};

/// Exit code after a second signal: 128 + SIGINT, as shells report it.
const EXIT_CODE: i32 = 130;

pub(crate) enum Signal {
    /// SIGINT came, and no SIGTERM so far.
    Interrupt,
    /// SIGTERM came, now or earlier.
    Terminate,
}

/// What a second signal does.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum SecondSignal {
    ExitsAtOnce,
    IsReported,
}

/// Calls `on_signal` on a thread of its own for each SIGTERM and SIGINT. The thread lasts as
/// long as the program.
pub(crate) fn watch(
    second: SecondSignal,
    on_signal: impl Fn(Signal) + Send + 'static,
) -> Result<()> {
    let failed = |err: std::io::Error| Error::failed(format!("cannot watch for signals: {err}"));
    let (mut reader, writer) = UnixStream::pair().map_err(failed)?;
    let seen = Arc::new(AtomicBool::new(false));
    let terminated = Arc::new(AtomicBool::new(false));
    flag::register(SIGTERM, terminated.clone()).map_err(failed)?;
    for signal in [SIGTERM, SIGINT] {
        if second == SecondSignal::ExitsAtOnce {
            // In this order: at the first signal the flag is not set yet, so mom does not exit.
            flag::register_conditional_shutdown(signal, EXIT_CODE, seen.clone()).map_err(failed)?;
            flag::register(signal, seen.clone()).map_err(failed)?;
        }
        low_level::pipe::register(signal, writer.try_clone().map_err(failed)?).map_err(failed)?;
    }
    flag::register(SIGHUP, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    let wait = move || {
        let mut byte = [0];
        while reader.read_exact(&mut byte).is_ok() {
            on_signal(if terminated.load(Ordering::SeqCst) {
                Signal::Terminate
            } else {
                Signal::Interrupt
            });
        }
    };
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)
        .map_err(failed)?;
    Ok(())
}
