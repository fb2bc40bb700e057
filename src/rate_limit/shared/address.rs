//! Where the store is: one URL for one server, a cluster, or servers that sentinels watch.

use std::fmt;

use redis::{IntoConnectionInfo, RedisConnectionInfo};

/// The shape of a URL of the store, for errors.
const ALLOWED: &str = "redis://[user:password@]host[:6379][/database], rediss:// (TLS), redis+cluster://host:port,host:port or redis+sentinel://host:port,host:port/master-name[/database]";

/// A host name or address without brackets, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host(pub(super) String, pub(super) u16);

impl Host {
    /// Reads `host:port` as servers write it of each other; of an IPv6 address the last colon is
    /// the port's. `None`: it names no host.
    pub(super) fn announced(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some(Self(host.into(), port.parse().ok()?))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

/// How the server to talk to is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// The first of the hosts that answers.
    Direct,
    /// The host, of those of a cluster, that has the slot of our keys: the others name it.
    Cluster,
    /// The host that the sentinels call the master of this name.
    Sentinel(Box<str>),
}

/// A URL of the store, read.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) way: Way,
    pub(super) tls: bool,
    pub(super) hosts: Vec<Host>,
    /// User, password, database.
    pub(super) login: RedisConnectionInfo,
}

impl Address {
    /// Reads a URL. An error quotes nothing of it: it may hold a password.
    pub(super) fn read(url: &str) -> Result<Self, &'static str> {
        let (scheme, rest) = url.split_once("://").ok_or(ALLOWED)?;
        let (scheme, way) = scheme.split_once('+').unwrap_or((scheme, ""));
        let tls = match scheme {
            "redis" => false,
            "rediss" => true,
            _ => return Err(ALLOWED),
        };
        let (at, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = at
            .rsplit_once('@')
            .map_or(("", at), |(user, hosts)| (&rest[..=user.len()], hosts));
        let (way, port, database) = match way {
            "" => (Way::Direct, 6379, path),
            // A cluster has one database.
            "cluster" if path.is_empty() => (Way::Cluster, 6379, ""),
            "sentinel" => {
                let (master, database) = path.split_once('/').unwrap_or((path, ""));
                if master.is_empty() {
                    return Err(ALLOWED);
                }
                (Way::Sentinel(master.into()), 26379, database)
            }
            _ => return Err(ALLOWED),
        };
        let mut login = None;
        let mut read = |host: &str| {
            // The library reads what is the same for all: encoded names, passwords, the database.
            let one = format!("redis://{user}{host}/{database}");
            let one = one.into_connection_info().map_err(|_quotes| ALLOWED)?;
            let redis::ConnectionAddr::Tcp(name, given) = one.addr() else {
                return Err(ALLOWED);
            };
            let given = if has_port(host) { *given } else { port };
            let host = Host(name.clone(), given);
            login.get_or_insert_with(|| one.redis_settings().clone());
            Ok(host)
        };
        let hosts = hosts.split(',').map(&mut read).collect::<Result<_, _>>()?;
        Ok(Self {
            way,
            tls,
            hosts,
            login: login.ok_or(ALLOWED)?,
        })
    }
}

fn has_port(host: &str) -> bool {
    // What follows the brackets of an IPv6 address, else everything.
    host.rsplit(']').next().is_some_and(|end| end.contains(':'))
}

impl fmt::Display for Address {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        f.write_str(match self.way {
            Way::Direct => "://",
            Way::Cluster => "+cluster://",
            Way::Sentinel(_) => "+sentinel://",
        })?;
        for (i, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if i > 0 { "," } else { "" })?;
        }
        if let Way::Sentinel(master) = &self.way {
            write!(f, "/{master}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_url_says_where_and_how() {
        for (url, shown, database) in [
            ("redis://a", "redis://a:6379", 0),
            ("redis://a:7/3", "redis://a:7", 3),
            ("rediss://u:p%40%2F@a:7/2", "rediss://a:7", 2),
            ("redis://:p@[2001:db8::1]", "redis://[2001:db8::1]:6379", 0),
            ("redis://[2001:db8::1]:7", "redis://[2001:db8::1]:7", 0),
            ("redis+cluster://a:1,b:2", "redis+cluster://a:1,b:2", 0),
            (
                "rediss+sentinel://u:p@a,b:2/main/4",
                "rediss+sentinel://a:26379,b:2/main",
                4,
            ),
        ] {
            let address = Address::read(url).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.login.db(), database, "{url}");
        }
        let login = Address::read("rediss://u:p%40%2F@a").unwrap().login;
        assert_eq!(
            (login.username(), login.password()),
            (Some("u"), Some("p@/"))
        );
    }

    #[test]
    fn what_is_no_such_url_is_refused_without_a_quote() {
        for bad in [
            "",
            "a:6379",
            "http://:canary@a",
            "redis://",
            "redis://:canary@",
            "redis://:canary@a/x",
            "redis://:canary@a:99999",
            "redis+cluster://:canary@a/1",
            "redis+sentinel://:canary@a",
            "redis+ring://:canary@a",
        ] {
            let Err(why) = Address::read(bad) else {
                panic!("{bad} is read")
            };
            assert!(!why.contains("canary"), "{why}");
        }
    }

    #[test]
    fn hosts_are_read_as_servers_announce_them() {
        let host = |text| Host::announced(text).map(|host| host.to_string());
        assert_eq!(host("10.0.0.1:7000").as_deref(), Some("10.0.0.1:7000"));
        assert_eq!(
            host("2001:db8::1:7000").as_deref(),
            Some("[2001:db8::1]:7000")
        );
        for bad in ["", ":7000", "a", "a:x"] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
