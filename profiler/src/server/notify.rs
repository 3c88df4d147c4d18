//! What systemd is told: that we are ready, reload, end, and are alive. Source: sd_notify(3).

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// Whoever started us and wants to know.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// How often it wants to hear from us.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names, if there is one.
    #[must_use]
    pub fn of_environment() -> Self {
        let text = |name: &str| env::var(name).ok();
        Self {
            socket: env::var_os("NOTIFY_SOCKET").and_then(|name| {
                let socket = connect(&name);
                if let Err(error) = &socket {
                    log::warn!("cannot tell the supervisor anything: {error}");
                }
                socket.ok()
            }),
            watchdog: watchdog(text("WATCHDOG_USEC"), text("WATCHDOG_PID")),
        }
    }

    /// How often to say that we are alive.
    #[must_use]
    pub fn heartbeat(&self) -> Option<Duration> {
        // Half of the time leaves room for a busy host.
        self.watchdog.map(|limit| limit / 2)
    }

    /// Requests are answered.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving\n");
    }

    /// The configuration is read again; [`Self::ready`] follows.
    pub fn reloading(&self) {
        let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\n",
            now.as_micros()
        ));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=waiting for running requests\n");
    }

    /// We are alive.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1\n");
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
        {
            log::warn!("cannot tell the supervisor '{}': {error}", state.trim_end());
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A supervisor that does not read must not stop us.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How often a supervisor wants to hear from us, if it is us that it means.
fn watchdog(usec: Option<String>, pid: Option<String>) -> Option<Duration> {
    let own = std::process::id();
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let usec = usec?.parse().ok()?;
    (usec > 0).then(|| Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(name: &OsStr, socket: &UnixDatagram) -> Vec<String> {
        let supervisor = Supervisor {
            socket: Some(connect(name).unwrap()),
            watchdog: None,
        };
        supervisor.ready();
        supervisor.reloading();
        supervisor.stopping();
        supervisor.alive();
        let mut buffer = [0; 128];
        let mut receive = || {
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        (0..4).map(|_| receive()).collect()
    }

    #[track_caller]
    fn check(states: &[String]) {
        assert!(states[0].starts_with("READY=1\n"));
        let (reloading, clock) = states[1].split_once("\nMONOTONIC_USEC=").unwrap();
        assert_eq!(reloading, "RELOADING=1");
        assert!(clock.trim_end().parse::<u64>().unwrap() > 0);
        assert!(states[2].starts_with("STOPPING=1\n"));
        assert_eq!(states[3], "WATCHDOG=1\n");
    }

    #[test]
    fn states_reach_a_socket_with_a_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        check(&received(path.as_os_str(), &socket));
    }

    #[test]
    fn states_reach_an_abstract_socket() {
        let name = format!("ebpfprof-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        check(&received(format!("@{name}").as_ref(), &socket));
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let text = |text: &str| Some(text.to_owned());
        let own = std::process::id().to_string();
        let ten = Some(Duration::from_secs(10));
        assert_eq!(watchdog(text("10000000"), None), ten);
        assert_eq!(watchdog(text("10000000"), Some(own)), ten);
        assert_eq!(watchdog(text("10000000"), text("1")), None);
        assert_eq!(watchdog(text("0"), None), None);
        assert_eq!(watchdog(None, None), None);
    }

    #[test]
    fn nobody_is_told_when_nobody_asks() {
        Supervisor::default().ready();
        assert_eq!(Supervisor::default().heartbeat(), None);
    }
}
