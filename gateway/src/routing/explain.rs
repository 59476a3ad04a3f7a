//! Why a request goes where it goes: every prefix that was considered, which one won, and what stands before it.
//! Who enters: operators, with a path and a method.
//! What leaves: the same decision that a request would meet, in words and as JSON.

use schemars::JsonSchema;
use serde::Serialize;

use super::tree::Found;
use super::{Router, Target};
use crate::api::Method;
use crate::api::describe::guard_text;
use crate::compartments::{Kind, Seen};
use crate::paths::PlainPath;
use crate::upstream::METHODS;

/// One prefix of the table.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RouteLine {
    /// The prefix: this path and those below, unless a longer one takes them.
    pub prefix: String,
    /// The service.
    pub service: String,
    /// Where the service is.
    pub kind: Kind,
    /// Its breaker: `closed`, `open`, `half_open`, `ramping`, or `none` if it is never isolated.
    pub breaker: &'static str,
    /// What may be asked there, and by whom: method and guard; `*` for all that is forwarded.
    pub routes: Vec<String>,
    /// The upstream's endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
}

/// The whole table.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RouteList {
    /// By prefix.
    pub routes: Vec<RouteLine>,
}

/// A prefix that covers a path.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Considered {
    /// The prefix.
    pub prefix: String,
    /// The service behind it.
    pub service: String,
    /// It is the one.
    pub wins: bool,
    /// Why, or why not.
    pub why: &'static str,
}

/// Why a request goes where it goes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Explanation {
    /// The method that was asked about.
    pub method: String,
    /// The path as it is matched and forwarded; absent if it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `served`, `method_not_allowed`, `not_found` or `bad_request`.
    pub outcome: &'static str,
    /// The outcome in words.
    pub why: String,
    /// Every prefix that covers the path, the shortest first.
    pub considered: Vec<Considered>,
    /// The service that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The route's pattern, within a service of this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Who may pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// The methods of the path, where this one is not among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<&'static str>,
    /// The service's breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<&'static str>,
}

impl Router {
    /// The whole table.
    pub fn list(&self) -> RouteList {
        let table = self.table.load();
        let line = |(prefix, target): (&str, &Target)| RouteLine {
            prefix: prefix.to_owned(),
            service: target.name().to_owned(),
            kind: target.compartment().seen().kind,
            breaker: breaker_word(&target.compartment().seen()),
            routes: match target {
                Target::Room(room) => {
                    let own = room.tree.routes().iter().filter(|route| route.pattern == prefix);
                    own.map(|route| format!("{} ({})", route.method.text(), guard_text(route.guard)))
                        .collect()
                }
                Target::Upstream(upstream) => vec![format!("* ({})", guard_text(upstream.guard().kind()))],
            },
            endpoints: match target {
                Target::Room(_) => Vec::new(),
                Target::Upstream(upstream) => {
                    upstream.config().endpoints.iter().map(ToString::to_string).collect()
                }
            },
        };
        RouteList { routes: table.prefixes.all().into_iter().map(line).collect() }
    }

    /// What would become of a request, and why.
    pub fn explain(&self, method: &str, path: &str) -> Explanation {
        let mut told = Explanation::of(method);
        let plain = match PlainPath::of(path) {
            Ok(plain) => plain,
            Err(why) => return Explanation { outcome: "bad_request", why: why.to_string(), ..told },
        };
        told.path = Some(plain.as_str().to_owned());
        let table = self.table.load();
        let longest = table.prefixes.longest(plain.as_str());
        told.considered = table
            .prefixes
            .covering(plain.as_str())
            .into_iter()
            .map(|(prefix, target)| {
                let wins = longest.is_some_and(|(longest, _)| longest == prefix);
                let why = if wins {
                    "the longest prefix on a segment boundary"
                } else {
                    "a longer prefix covers the path"
                };
                Considered { prefix: prefix.to_owned(), service: target.name().to_owned(), wins, why }
            })
            .collect();
        match longest {
            None => told.ended("not_found", "no prefix covers the path"),
            Some((_, target)) => {
                told.service = Some(target.name().to_owned());
                told.breaker = Some(breaker_word(&target.compartment().seen()));
                match target {
                    Target::Room(room) => told.within(room.tree.find(&as_method(method), plain.as_str())),
                    Target::Upstream(upstream) => told.beyond(guard_text(upstream.guard().kind())),
                }
            }
        }
    }
}

fn breaker_word(seen: &Seen) -> &'static str {
    seen.standing.map_or("none", |standing| standing.word())
}

fn as_method(method: &str) -> http::Method {
    method.parse().unwrap_or_default()
}

impl Explanation {
    fn of(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: None,
            outcome: "not_found",
            why: String::new(),
            considered: Vec::new(),
            service: None,
            route: None,
            guard: None,
            allow: Vec::new(),
            breaker: None,
        }
    }

    fn ended(self, outcome: &'static str, why: &str) -> Self {
        Self { outcome, why: why.to_owned(), ..self }
    }

    /// The prefix has decided; only now the method counts, and it never makes the choice a shorter prefix.
    fn within(mut self, found: Found<'_>) -> Self {
        match found {
            Found::Route(route, _) => {
                self.route = Some(route.pattern.to_owned());
                self.guard = Some(guard_text(route.guard));
                self.ended("served", "by this process")
            }
            Found::OtherMethods(methods) => {
                self.allow = methods.into_iter().map(Method::text).collect();
                self.ended("method_not_allowed", "the path takes other methods; no shorter prefix is tried")
            }
            Found::Nothing => {
                self.ended("not_found", "the service has no such path; no shorter prefix is tried")
            }
        }
    }

    fn beyond(mut self, guard: String) -> Self {
        self.guard = Some(guard);
        if METHODS.contains(&self.method.as_str()) {
            return self.ended("served", "by an upstream");
        }
        self.allow = METHODS.to_vec();
        self.ended("method_not_allowed", "this method is not forwarded")
    }
}
