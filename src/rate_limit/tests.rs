use std::num::NonZeroU32;

use super::*;
use crate::config::units::Rate;
use crate::telemetry::Metrics;

fn policy(matches: Match, per: Per, burst: u32) -> Policy {
    Policy {
        name: format!("{matches:?}-{per:?}").to_lowercase(),
        matches,
        per,
        rate: Rate {
            count: NonZeroU32::new(1).unwrap(),
            per: Duration::from_secs(60),
        },
        burst: NonZeroU32::new(burst),
        except: Vec::new(),
        enforce: true,
    }
}

fn compile(policies: &[Policy]) -> RateLimits {
    let metrics = Metrics::new().unwrap();
    let names = ["a", "b"].map(Arc::from);
    let counters = |p: &Policy| metrics.policy(&p.name, p.enforce);
    RateLimits::new(policies, &names, counters, None, None)
}

fn by(key: usize, client: &str) -> Subject {
    Subject {
        route: Route::Visitor,
        lookup: false,
        opens_socket: false,
        key,
        client: client.parse().unwrap(),
    }
}

const ONE: &str = "192.0.2.1";

#[test]
fn a_refusal_says_when_to_come_back_rounded_up_and_by_whom() {
    let limits = compile(&[policy(Match::Api, Per::Key, 2)]);
    assert!(limits.check(by(0, ONE)).is_ok());
    assert!(limits.check(by(0, ONE)).is_ok());
    let limited = limits.check(by(0, ONE)).unwrap_err();
    assert!((60..=66).contains(&limited.retry_after), "{limited:?}");
    assert_eq!(&*limited.policy, "api-key");
    assert!(limits.check(by(1, ONE)).is_ok(), "another key's own bucket");
}

#[test]
fn addresses_of_one_ipv6_network_share_a_bucket() {
    let limits = compile(&[policy(Match::Api, Per::Client, 1)]);
    assert!(limits.check(by(0, "2001:db8::1")).is_ok());
    assert!(limits.check(by(1, "2001:db8::ffff:2")).is_err());
    assert!(limits.check(by(0, "2001:db8:0:1::1")).is_ok());
}

#[test]
fn a_bucket_is_a_keys_a_clients_of_both_or_everybodys() {
    // Whether one of another key, of another client, of both is admitted after one.
    for (per, admitted) in [
        (Per::Key, [true, false, true]),
        (Per::Client, [false, true, true]),
        (Per::KeyAndClient, [true, true, true]),
        (Per::Global, [false, false, false]),
    ] {
        let others = [by(1, ONE), by(0, "192.0.2.2"), by(1, "192.0.2.3")];
        let got = others.map(|other| {
            let limits = compile(&[policy(Match::Api, per, 1)]);
            assert!(limits.check(by(0, ONE)).is_ok());
            assert!(limits.check(by(0, ONE)).is_err(), "{per:?}");
            limits.check(other).is_ok()
        });
        assert_eq!(got, admitted, "{per:?}");
    }
}

#[test]
fn a_refusal_by_one_policy_takes_no_token_of_the_others() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let all = [
            policy(Match::Api, Per::Global, 4),
            policy(Match::Api, Per::Client, 2),
            Policy {
                enforce: false,
                ..policy(Match::Api, Per::KeyAndClient, 4)
            },
        ];
        let limits = compile(&order.map(|n| all[n].clone()));
        for _ in 0..2 {
            assert!(limits.check(by(0, ONE)).is_ok());
        }
        for _ in 0..20 {
            let limited = limits.check(by(0, ONE)).unwrap_err();
            assert_eq!(&*limited.policy, "api-client", "{order:?}");
        }
        // Of the four for everybody two are left, for somebody else.
        for _ in 0..2 {
            assert!(limits.check(by(0, "192.0.2.2")).is_ok(), "{order:?}");
        }
        let limited = limits.check(by(0, "192.0.2.3")).unwrap_err();
        assert_eq!(&*limited.policy, "api-global", "{order:?}");
    }
}

#[test]
fn a_policy_holds_for_its_routes() {
    let limits = compile(&[
        policy(Match::WatchUrl, Per::Global, 1),
        policy(Match::LookupCode, Per::Global, 1),
    ]);
    let subject = |route, lookup| Subject {
        route,
        lookup,
        ..by(0, ONE)
    };
    for _ in 0..3 {
        assert!(limits.check(subject(Route::Visitor, false)).is_ok());
        assert!(limits.check(subject(Route::VisitorsSearch, false)).is_ok());
    }
    for (route, lookup) in [(Route::WatchUrl, false), (Route::VisitorsSearch, true)] {
        assert!(limits.check(subject(route, lookup)).is_ok());
        assert!(limits.check(subject(route, lookup)).is_err());
    }
    assert!(limits.check_websocket(ONE.parse().unwrap()).is_ok());
    assert!(limits.check_connection(ONE.parse().unwrap()).is_ok());
}

#[test]
fn sockets_and_connections_have_policies_of_their_own() {
    let limits = compile(&[
        policy(Match::Websocket, Per::Global, 1),
        policy(Match::Connection, Per::Client, 1),
    ]);
    let (one, two) = (ONE.parse().unwrap(), "192.0.2.2".parse().unwrap());
    assert!(limits.check(by(0, ONE)).is_ok());
    assert!(limits.check_websocket(one).is_ok());
    assert!(limits.check_websocket(two).is_err());
    let opens_socket = Subject {
        opens_socket: true,
        ..by(0, ONE)
    };
    assert!(limits.check(opens_socket).is_err());
    assert!(limits.check_connection(one).is_ok());
    assert!(limits.check_connection(one).is_err());
    assert!(limits.check_connection(two).is_ok());
}

#[test]
fn a_policy_that_is_not_enforced_counts_and_refuses_nothing() {
    let limits = compile(&[Policy {
        enforce: false,
        ..policy(Match::Api, Per::Key, 1)
    }]);
    for _ in 0..3 {
        let told = limits.check(by(0, ONE)).unwrap();
        assert!(told.is_none(), "what does not limit is not told");
    }
    assert_eq!(limits.policies[0].counters.limited.get(), 2);
    assert_eq!(limits.policies[0].counters.admitted.get(), 1);
}

#[test]
fn who_failed_too_often_is_not_heard_and_looking_costs_nothing() {
    let limits = compile(&[policy(Match::FailedAuth, Per::Client, 2)]);
    let client = "2001:db8::1".parse().unwrap();
    for _ in 0..2 {
        assert!(limits.may_authenticate(client).is_ok());
        limits.failed_to_authenticate(client);
    }
    for address in ["2001:db8::1", "2001:db8::ffff:2"] {
        let limited = limits.may_authenticate(address.parse().unwrap());
        let limited = limited.expect_err("it is of the network that failed");
        assert!((59..=66).contains(&limited.retry_after), "{limited:?}");
    }
    let other = "2001:db8:0:1::1".parse().unwrap();
    assert!(limits.may_authenticate(other).is_ok());
    assert!(limits.check(by(0, "2001:db8::1")).is_ok(), "not counted");
    let counters = &limits.policies[0].counters;
    assert_eq!((counters.admitted.get(), counters.limited.get()), (2, 2));
}

#[test]
fn a_policy_does_not_hold_for_its_exceptions() {
    for matches in [Match::Api, Match::FailedAuth] {
        let limits = compile(&[Policy {
            except: vec!["10.0.0.0/8".parse().unwrap()],
            ..policy(matches, Per::Client, 1)
        }]);
        for (client, held) in [("10.1.2.3", false), ("192.0.2.1", true)] {
            let once = || {
                let address = client.parse().unwrap();
                limits.may_authenticate(address)?;
                limits.failed_to_authenticate(address);
                limits.check(by(0, client)).map(drop)
            };
            assert!(once().is_ok());
            assert_eq!(once().is_err(), held, "{matches:?} {client}");
        }
    }
}

#[test]
fn the_client_is_told_in_the_standards_words() {
    let limits = compile(&[
        policy(Match::Api, Per::Key, 3),
        policy(Match::Api, Per::Client, 2),
    ]);
    let told = limits.check(by(0, ONE)).unwrap().unwrap();
    assert_eq!(
        (told.policy.to_str().unwrap(), told.state.to_str().unwrap()),
        (
            r#""api-key";q=3;w=180, "api-client";q=2;w=120"#,
            r#""api-key";r=2;t=60, "api-client";r=1;t=60"#
        )
    );
    limits.check(by(0, ONE)).unwrap();
    let limited = limits.check(by(0, ONE)).unwrap_err();
    let told = limited.fields.unwrap();
    assert!(
        told.policy
            .to_str()
            .unwrap()
            .contains("\"api-client\";q=2;w=120")
    );
    let state = told.state.to_str().unwrap();
    assert!(state.ends_with("\"api-client\";r=0;t=60"), "{state}");
    assert!(limited.retry_after >= 60);
}

#[test]
fn what_was_written_beforehand_is_what_would_be_written_for_the_client() {
    let counted = [
        policy(Match::Api, Per::Key, 4),
        Policy {
            name: "unenforced".into(),
            enforce: false,
            ..policy(Match::Api, Per::Client, 1)
        },
        policy(Match::VisitorsSearch, Per::Client, 3),
        policy(Match::LookupCode, Per::Client, 2),
        policy(Match::Websocket, Per::Global, 2),
    ];
    let told = |judged: Result<Option<Fields>, Limited>| match judged {
        Ok(fields) => (true, fields.map(|fields| fields.policy)),
        Err(limited) => (false, limited.fields.map(|fields| fields.policy)),
    };
    for sort in Sort::all() {
        let (ready, written) = (compile(&counted), compile(&counted));
        for nth in 0..6 {
            let subject = Subject {
                route: sort.route,
                lookup: sort.lookup,
                opens_socket: sort.opens_socket,
                ..by(0, ONE)
            };
            let positions = written.counting(sort);
            let (key, client) = (written.key(0), subject.client);
            let expected = told(written.take(positions, key, client, None));
            assert_eq!(
                told(ready.check(subject)),
                expected,
                "{nth} {}",
                sort.index()
            );
        }
    }
    // Of a client that is spared it is not the same.
    let spares = Policy {
        except: vec!["10.0.0.0/8".parse().unwrap()],
        ..policy(Match::VisitorsSearch, Per::Client, 3)
    };
    let limits = compile(&[policy(Match::Api, Per::Key, 4), spares]);
    let listed = |client| {
        let subject = Subject {
            route: Route::VisitorsSearch,
            ..by(0, client)
        };
        let fields = limits.check(subject).unwrap().unwrap();
        fields.policy.to_str().unwrap().matches(";q=").count()
    };
    assert_eq!((listed("10.1.2.3"), listed("192.0.2.1")), (1, 2));
}
