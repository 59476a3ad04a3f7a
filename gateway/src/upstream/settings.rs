//! What the configuration says of an upstream, and everything that can be wrong with it.
//! Who enters: `[[upstream]]` tables.
//! What leaves: settings without defects, or each defect with its place; no upstream takes a path of the appliance's own.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Deserializer};

use crate::compartments::Bounds;
use crate::compartments::breaker::Policy;
use crate::dial::{Place, TrustFiles};
use crate::ids::UpstreamName;
use crate::limits::{BODY_BYTES_MAX, ENDPOINTS_MAX, REQUEST_WAIT_MAX, UPSTREAMS_MAX};
use crate::paths::PlainPath;
use crate::paths::prefixes::covers;

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Its name: the scope is `upstream:<name>`.
    #[serde(deserialize_with = "parsed")]
    pub name: UpstreamName,
    /// The paths it answers: this one and those below.
    pub prefix: String,
    /// Where it listens; several are tried in turn.
    #[serde(deserialize_with = "all_parsed")]
    pub endpoints: Vec<Place>,
    /// How it is spoken to.
    #[serde(default)]
    pub protocol: Protocol,
    /// The CA of its server certificate, PEM.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Our certificate before it, PEM.
    #[serde(default)]
    pub client_certificate: Option<PathBuf>,
    /// Its key, PEM.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// The name in its certificate, where it is not the host's.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Speak without TLS to another machine.
    #[serde(default)]
    pub dangerous_plaintext: bool,
    /// It carries out a request with the same Idempotency-Key once, so such a request may be repeated.
    #[serde(default)]
    pub idempotent: bool,
    /// Headers of callers that it is to have beside the usual ones, such as `cookie`; in lower case.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The time it is given for an answer, whatever a caller's patience.
    #[serde(default = "default_wait")]
    pub wait_ms_max: u64,
    /// Requests under way at once.
    #[serde(default = "default_in_flight")]
    pub in_flight_max: usize,
    /// Requests that may wait for a place.
    #[serde(default = "default_in_flight")]
    pub queue_max: usize,
    /// The longest body of a request.
    #[serde(default = "default_body")]
    pub body_bytes_max: u64,
    /// The longest body of an answer.
    #[serde(default = "default_answer")]
    pub answer_bytes_max: u64,
}

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; over TLS by ALPN, else by prior knowledge.
    H2,
}

/// First segments that belong to the appliance.
const RESERVED: [&str; 5] = ["/v1", "/health", "/metrics", "/problems", "/.well-known"];

/// Names of the appliance's own services: status, breakers and metrics tell upstreams and services apart by name.
pub const RESERVED_NAMES: [&str; 12] = [
    "audit",
    "devices",
    "events",
    "following",
    "keys",
    "locks",
    "signing",
    "status",
    "resealing",
    "succession",
    "workflows",
    "workspaces",
];

impl UpstreamConfig {
    /// Its place and time.
    pub fn bounds(&self) -> Bounds {
        let breaker = Some(Policy::default());
        Bounds { in_flight_max: self.in_flight_max, queue_max: self.queue_max, breaker }
    }

    /// The time it is given for an answer.
    pub fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms_max)
    }

    /// What TLS with it needs.
    pub fn trust_files(&self) -> TrustFiles {
        TrustFiles {
            ca: self.ca.clone(),
            client_certificate: self.client_certificate.clone(),
            client_key: self.client_key.clone(),
            server_name: self.server_name.clone(),
        }
    }

    fn defects(&self) -> Vec<(&'static str, String)> {
        let mut defects = self.prefix_defects();
        let mut defect = |at, what: &str| defects.push((at, what.to_owned()));
        if RESERVED_NAMES.contains(&self.name.as_str()) {
            defect(
                "name",
                &format!("is `{}`, which is a service of the appliance; choose another", self.name),
            );
        }
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            defect("endpoints", &format!("must name 1 to {ENDPOINTS_MAX} addresses"));
        }
        let open = self.endpoints.iter().find(|place| !place.secure && !place.is_loopback());
        if let Some(place) = open.filter(|_| !self.dangerous_plaintext) {
            let what = format!(
                "has {place}, which would carry requests in the clear to another machine; use https, or say dangerous_plaintext = true"
            );
            defect("endpoints", &what);
        }
        let files = [
            ("ca", &self.ca),
            ("client_certificate", &self.client_certificate),
            ("client_key", &self.client_key),
        ];
        if self.endpoints.iter().any(|place| place.secure) {
            for (at, _) in files.iter().filter(|(_, file)| file.is_none()) {
                defect(at, "is missing; an https endpoint needs ca, client_certificate and client_key");
            }
        }
        for (at, path) in files.iter().filter_map(|(at, path)| Some((*at, path.as_ref()?))) {
            if !path.is_absolute() {
                defect(at, &format!("is `{}`; give the whole path, from `/` on", path.display()));
            } else if let Err(why) = std::fs::File::open(path) {
                defect(at, &format!("names {}, which cannot be read ({why})", path.display()));
            }
        }
        for name in &self.headers {
            let plain = HeaderName::from_bytes(name.as_bytes()).is_ok_and(|parsed| parsed.as_str() == name);
            if !plain {
                defect("headers", &format!("names `{name}`, which is no header's name in lower case"));
            } else if super::headers::is_ours(name) {
                defect(
                    "headers",
                    &format!(
                        "names `{name}`, by which a caller could pass for another, or which ends at this hop"
                    ),
                );
            }
        }
        let longest = u64::try_from(REQUEST_WAIT_MAX.as_millis()).unwrap_or(u64::MAX);
        if self.wait_ms_max == 0 || self.wait_ms_max > longest {
            defect("wait_ms_max", &format!("must be 1 to {longest}"));
        }
        if self.in_flight_max == 0 {
            defect("in_flight_max", "must be above zero");
        }
        defects
    }

    fn prefix_defects(&self) -> Vec<(&'static str, String)> {
        let plain = PlainPath::of(&self.prefix).is_ok_and(|plain| plain.as_str() == self.prefix);
        if !plain || self.prefix == "/" || self.prefix.contains(['{', '}', '?', '#']) {
            return vec![(
                "prefix",
                "must be a plain path such as `/ledger`, without a slash at its end".to_owned(),
            )];
        }
        let taken = RESERVED.iter().find(|own| covers(own, &self.prefix) || covers(&self.prefix, own));
        let refuse = |own: &&str| {
            ("prefix", format!("`{}` lies at `{own}`, which is the appliance's own", self.prefix))
        };
        taken.map(refuse).into_iter().collect()
    }
}

/// Everything wrong with a list of upstreams: where, and what. `shown` says how the file calls each of them.
pub fn defects<'a>(upstreams: &[UpstreamConfig], shown: impl Fn(usize) -> &'a str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    if upstreams.len() > UPSTREAMS_MAX {
        found.push(("upstream".to_owned(), format!("has more than {UPSTREAMS_MAX} tables")));
    }
    for (at, upstream) in upstreams.iter().enumerate() {
        let own = upstream.defects().into_iter();
        found.extend(own.map(|(key, what)| (format!("upstream.{}.{key}", shown(at)), what)));
        for earlier in &upstreams[..at] {
            if earlier.name == upstream.name {
                found.push((format!("upstream.{}", shown(at)), "stands twice; names are unique".to_owned()));
            } else if earlier.prefix == upstream.prefix {
                let what = format!(
                    "`{}` is claimed by `{}` and by `{}`",
                    upstream.prefix, earlier.name, upstream.name
                );
                found.push((format!("upstream.{}.prefix", shown(at)), what));
            }
        }
    }
    found
}

fn parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UpstreamName, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn all_parsed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Place>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn default_wait() -> u64 {
    5000
}

fn default_in_flight() -> usize {
    64
}

fn default_body() -> u64 {
    BODY_BYTES_MAX as u64
}

fn default_answer() -> u64 {
    64 << 20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> UpstreamConfig {
        toml::from_str(text).unwrap()
    }

    fn wrong(text: &str) -> Vec<String> {
        defects(&[read(text)], |_| "a").into_iter().map(|(at, what)| format!("{at} {what}")).collect()
    }

    const GOOD: &str = "name = 'a'\nprefix = '/a'\nendpoints = ['http://127.0.0.1:1']\n";

    #[test]
    fn loopback_may_be_spoken_to_in_the_clear_and_others_only_where_the_danger_is_named() {
        assert!(wrong(GOOD).is_empty());
        let remote = GOOD.replace("127.0.0.1", "10.0.0.1");
        assert!(wrong(&remote)[0].contains("in the clear"));
        assert!(wrong(&format!("{remote}dangerous_plaintext = true\n")).is_empty());
        assert!(
            wrong(&GOOD.replace("127.0.0.1", "localhost"))[0].contains("in the clear"),
            "a name may move"
        );
    }

    #[test]
    fn tls_without_its_files_is_told_file_by_file() {
        let told = wrong(&GOOD.replace("http:", "https:")).join("\n");
        for file in
            ["upstream.a.ca is missing", "upstream.a.client_certificate is", "upstream.a.client_key is"]
        {
            assert!(told.contains(file), "{file} in {told}");
        }
    }

    #[test]
    fn no_upstream_takes_a_path_of_the_appliance_or_an_unclear_one() {
        for prefix in ["/v1", "/v1/keys/extra", "/health", "/metrics/x"] {
            assert!(
                wrong(&GOOD.replace("'/a'", &format!("'{prefix}'")))[0].contains("appliance's own"),
                "{prefix}"
            );
        }
        for prefix in ["/", "", "a", "/a/", "/a//b", "/a/../b", "/%61", "/{a}", "/a?b"] {
            assert!(
                wrong(&GOOD.replace("'/a'", &format!("'{prefix}'")))[0].contains("plain path"),
                "{prefix}"
            );
        }
        assert!(wrong(&GOOD.replace("'/a'", "'/v1x'")).is_empty(), "a name that only begins like ours");
    }

    #[test]
    fn no_configuration_hands_on_a_header_that_is_ours_to_say() {
        assert!(wrong(&format!("{GOOD}headers = ['cookie', 'x-scope-orgid']\n")).is_empty());
        for name in
            ["authorization", "x-forwarded-for", "x-real-ip", "chancery-workspace", "connection", "a_b"]
        {
            let told = wrong(&format!("{GOOD}headers = ['{name}']\n"));
            assert!(told[0].contains("pass for another"), "{name}: {told:?}");
        }
        for name in ["Cookie", "", "a b"] {
            let told = wrong(&format!("{GOOD}headers = ['{name}']\n"));
            assert!(told[0].contains("no header's name"), "{name}: {told:?}");
        }
    }

    #[test]
    fn a_tie_names_both() {
        let (one, other) = (read(GOOD), read(&GOOD.replace("'a'", "'b'")));
        let found = defects(&[one.clone(), other], |at| ["a", "b"][at]);
        assert_eq!(found, [("upstream.b.prefix".into(), "`/a` is claimed by `a` and by `b`".into())]);
        assert!(defects(&[one.clone(), one], |_| "a")[0].1.contains("twice"));
    }
}
