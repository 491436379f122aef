//! What of the machine's network a helper goes by: its name servers and its ways out.
//!
//! slirp4netns looks at `/etc/resolv.conf` for each question it is asked, and leaves the way to the
//! kernel (libslirp's `slirp.c`). pasta looks at both when it starts, and never again (passt's
//! `conf.c`).

use std::{fs, net::IpAddr};

use crate::sys::route::{self, OUTSIDE4, OUTSIDE6};

/// Where programs look for the name servers (resolv.conf(5)).
pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What a helper goes by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The name servers, the first first.
    pub resolvers: Vec<IpAddr>,
    /// The interface by which the kernel goes out over IPv4: that of the default route, or of a VPN.
    pub route4: Option<String>,
    /// The same over IPv6.
    pub route6: Option<String>,
}

impl Surroundings {
    /// As they are now.
    pub fn now() -> Self {
        // What is not there tells of nothing.
        let resolv_conf = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        // What leads to the machine itself is no way out.
        let way_to = |address| route::interface_to(address).ok().filter(|name| name != "lo");
        Self {
            resolvers: resolvers(&resolv_conf),
            route4: way_to(OUTSIDE4),
            route6: way_to(OUTSIDE6),
        }
    }

    /// What is another than before, in words.
    fn difference(&self, before: &Self) -> Option<String> {
        let servers = |it: &Self| match &it.resolvers[..] {
            [] => "none".to_owned(),
            all => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let route = |it: &Option<String>| it.clone().unwrap_or_else(|| "none".to_owned());
        let rows = [
            ("name servers are", servers(before), servers(self)),
            ("way out is", route(&before.route4), route(&self.route4)),
            ("way out over IPv6 is", route(&before.route6), route(&self.route6)),
        ];
        let changed = rows.iter().filter(|(_, before, now)| before != now);
        let texts: Vec<_> = changed
            .map(|(what, before, now)| format!("the machine's {what} {now} now (before: {before})"))
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }

    /// Why a helper of `driver` that was started in other surroundings does not go by these, if so.
    fn miss(&self, driver: &str, started: &Self) -> Option<&'static str> {
        if driver != "pasta" {
            return None;
        }
        let first = |it: &Self, is: fn(&IpAddr) -> bool| it.resolvers.iter().copied().find(is);
        let has_other = |is| first(self, is).is_some() && first(self, is) != first(started, is);
        let has_come =
            |now: &Option<String>, then: &Option<String>| now.is_some() && then.is_none();
        if has_other(IpAddr::is_ipv4) || has_other(IpAddr::is_ipv6) {
            Some("asks the name server that the machine had when it started")
        } else if has_come(&self.route4, &started.route4) || has_come(&self.route6, &started.route6)
        {
            Some("goes no way that the machine did not have when it started")
        } else {
            None
        }
    }

    /// What is to be told of a change from `known` to these, and why a helper that was started in
    /// `started` is to be ended for it, if it is.
    pub fn judge(
        &self,
        driver: &str,
        can_heal: bool,
        known: &Self,
        started: &Self,
    ) -> Option<Judgement> {
        let difference = self.difference(known)?;
        let (text, end) = match self.miss(driver, started) {
            None => (format!("{difference}; {driver} goes by it"), None),
            Some(why) if can_heal => {
                let end = format!("{driver} was ended, since it {why}: {difference}");
                (format!("{difference}; {driver} is replaced, since it {why}"), Some(end))
            }
            Some(why) => (format!("{difference}; {driver} {why}, until rootlessctl restart"), None),
        };
        Some(Judgement { text, end })
    }
}

/// What comes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What happened, and what is done about it.
    pub text: String,
    /// Why the helper is ended, if it is.
    pub end: Option<String>,
}

/// The name servers in a resolv.conf(5).
fn resolvers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        // An address may have an interface.
        let address = |word: &str| word.split('%').next().and_then(|it| it.parse().ok());
        (words.next() == Some("nameserver")).then(|| words.next().and_then(address)).flatten()
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(resolvers: &str, route4: &str, route6: &str) -> Surroundings {
        let route = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        Surroundings {
            resolvers: resolvers.split_ascii_whitespace().map(|it| it.parse().unwrap()).collect(),
            route4: route(route4),
            route6: route(route6),
        }
    }

    #[test]
    fn what_is_another_is_told_and_who_misses_it_is_known() {
        let before = with("192.0.2.1 2001:db8::1", "eth0", "");
        // (now, what is told, whether pasta has to start anew)
        for (now, told, misses) in [
            (before.clone(), None, false),
            (
                with("192.0.2.2 192.0.2.1 2001:db8::1", "eth0", ""),
                Some(
                    "the machine's name servers are 192.0.2.2, 192.0.2.1, 2001:db8::1 now (before: \
                     192.0.2.1, 2001:db8::1)",
                ),
                true,
            ),
            // The first stays.
            (
                with("192.0.2.1", "eth0", ""),
                Some(
                    "the machine's name servers are 192.0.2.1 now (before: 192.0.2.1, 2001:db8::1)",
                ),
                false,
            ),
            // Without any there is nothing to go by.
            (
                with("", "eth0", ""),
                Some("the machine's name servers are none now (before: 192.0.2.1, 2001:db8::1)"),
                false,
            ),
            (
                with("192.0.2.1 2001:db8::1", "wlan0", ""),
                Some("the machine's way out is wlan0 now (before: eth0)"),
                false,
            ),
            (
                with("192.0.2.1 2001:db8::1", "", "wg0"),
                Some(
                    "the machine's way out is none now (before: eth0); the machine's way out over \
                     IPv6 is wg0 now (before: none)",
                ),
                true,
            ),
        ] {
            assert_eq!(now.difference(&before).as_deref(), told);
            assert_eq!(now.miss("pasta", &before).is_some(), misses, "{now:?}");
            assert_eq!(now.miss("slirp4netns", &before), None);
            let judged = |can_heal| now.judge("pasta", can_heal, &before, &before);
            assert_eq!(judged(true).is_some(), told.is_some());
            assert_eq!(judged(true).is_some_and(|it| it.end.is_some()), misses);
            assert_eq!(judged(false).and_then(|it| it.end), None);
        }
    }

    #[test]
    fn the_name_servers_are_understood() {
        let text = "# nameserver 192.0.2.9\nsearch example\nnameserver 192.0.2.1\n nameserver \
                    fe80::1%eth0 # x\nnameserver\nnameserver x\noptions trust-ad\n";
        assert_eq!(resolvers(text), with("192.0.2.1 fe80::1", "", "").resolvers);
    }
}
