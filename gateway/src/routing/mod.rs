//! Routing: the longest prefix decides which service a request belongs to, once and for all; then the service's own routes.
//! Who enters: services with their routes and upstreams with their prefixes, at start and at each reload; then paths.
//! What leaves: exactly one service, or none. A service that is isolated is still the one: nothing falls through.

pub mod explain;
pub mod tree;

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use self::tree::{Claimed, RouteTree};
use crate::api::Route;
use crate::compartments::Compartment;
use crate::paths::{Prefixes, Tie};
use crate::upstream::Upstream;

/// A service of this process, with its routes.
pub struct Room {
    /// Its name.
    pub name: &'static str,
    /// Its compartment.
    pub compartment: Arc<Compartment>,
    /// Its routes.
    pub tree: RouteTree,
}

/// What a prefix leads to.
#[derive(Clone)]
pub enum Target {
    /// A service of this process.
    Room(Arc<Room>),
    /// A service behind the network.
    Upstream(Arc<Upstream>),
}

/// The routes as they are now. Requests under way keep the table they began with.
#[derive(Default)]
pub struct Router {
    table: ArcSwap<Table>,
}

#[derive(Default)]
struct Table {
    prefixes: Prefixes<Target>,
    rooms: Vec<Arc<Room>>,
}

/// Why the routes cannot be served together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unroutable {
    /// Two routes of one service claim the same place.
    #[error(transparent)]
    Routes(#[from] Claimed),
    /// Two services claim the same prefix.
    #[error("`{first}` and `{second}` both claim {prefix}")]
    Prefix {
        /// The prefix.
        prefix: String,
        /// One service.
        first: String,
        /// The other.
        second: String,
    },
}

impl Room {
    /// A service with its routes.
    ///
    /// # Errors
    /// Two of them claim the same place.
    pub fn new(
        name: &'static str,
        compartment: Arc<Compartment>,
        routes: Vec<Route>,
    ) -> Result<Arc<Self>, Claimed> {
        Ok(Arc::new(Self { name, compartment, tree: RouteTree::new(routes)? }))
    }

    /// Each pattern of its routes is a prefix: so there is no second list to keep in step with the routes.
    fn prefixes(&self) -> BTreeSet<&'static str> {
        self.tree.routes().iter().map(|route| route.pattern).collect()
    }
}

impl Target {
    /// The service's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Room(room) => room.name,
            Self::Upstream(upstream) => upstream.config().name.as_str(),
        }
    }

    /// The service's compartment.
    pub fn compartment(&self) -> &Arc<Compartment> {
        match self {
            Self::Room(room) => &room.compartment,
            Self::Upstream(upstream) => upstream.compartment(),
        }
    }
}

impl Router {
    /// Serves these services and upstreams from now on.
    ///
    /// # Errors
    /// They claim the same prefix; what was served before is served on.
    pub fn serve(&self, rooms: Vec<Arc<Room>>, upstreams: &[Arc<Upstream>]) -> Result<(), Unroutable> {
        self.table.store(Arc::new(Table::new(rooms, upstreams)?));
        Ok(())
    }

    /// Serves these upstreams from now on, beside the services that are served.
    ///
    /// # Errors
    /// As [`Router::serve`].
    pub fn serve_upstreams(&self, upstreams: &[Arc<Upstream>]) -> Result<(), Unroutable> {
        self.serve(self.table.load().rooms.clone(), upstreams)
    }

    /// The service that a plain path belongs to.
    pub fn find(&self, path: &str) -> Option<Target> {
        self.table.load().prefixes.longest(path).map(|(_, target)| target.clone())
    }

    /// The upstreams that are served.
    pub fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let table = self.table.load();
        let all = table.prefixes.all().into_iter();
        all.filter_map(|(_, target)| match target {
            Target::Upstream(upstream) => Some(Arc::clone(upstream)),
            Target::Room(_) => None,
        })
        .collect()
    }
}

impl Table {
    fn new(rooms: Vec<Arc<Room>>, upstreams: &[Arc<Upstream>]) -> Result<Self, Unroutable> {
        let mut prefixes = Prefixes::default();
        for room in &rooms {
            for prefix in room.prefixes() {
                add(&mut prefixes, prefix, Target::Room(Arc::clone(room)))?;
            }
        }
        for upstream in upstreams {
            add(&mut prefixes, &upstream.config().prefix, Target::Upstream(Arc::clone(upstream)))?;
        }
        Ok(Self { prefixes, rooms })
    }
}

fn add(prefixes: &mut Prefixes<Target>, prefix: &str, target: Target) -> Result<(), Unroutable> {
    let second = target.name().to_owned();
    prefixes.add(prefix, target).map_err(|Tie { first, .. }| {
        let holder = prefixes.covering(&first).pop().map(|(_, target)| target.name().to_owned());
        Unroutable::Prefix { prefix: prefix.to_owned(), first: holder.unwrap_or(first), second }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Open, Reply};
    use crate::compartments::{Bounds, Compartments, Kind};
    use crate::dice::Dice;

    fn room(name: &'static str, patterns: &[&'static str]) -> Arc<Room> {
        let bounds = Bounds { in_flight_max: 1, queue_max: 1, breaker: None };
        let compartment = Compartment::new(name, Kind::InProcess, bounds, &Dice::system());
        let route = |pattern| {
            Route::get(pattern).guard::<Open>().to(Arc::new(()), |_, (), (), _| async { Ok(Reply::empty()) })
        };
        Room::new(name, compartment, patterns.iter().copied().map(route).collect()).unwrap()
    }

    fn upstream(name: &str, prefix: &str) -> Arc<Upstream> {
        let text = format!("name = '{name}'\nprefix = '{prefix}'\nendpoints = ['http://127.0.0.1:9']\n");
        Upstream::new(toml::from_str(&text).unwrap(), &Compartments::default(), &Dice::system()).unwrap()
    }

    fn rooms() -> Vec<Arc<Room>> {
        vec![
            room("keys", &["/v1/keys", "/v1/keys/{key}", "/v1/keys/{key}/rotate"]),
            room("signing", &["/v1/keys/{key}/sign", "/v1/sign-batch"]),
        ]
    }

    #[test]
    fn each_path_belongs_to_one_service_and_the_longest_prefix_says_which() {
        let router = Router::default();
        router.serve(rooms(), &[upstream("a", "/a"), upstream("ab", "/a/b")]).unwrap();
        let name = |path: &str| router.find(path).map(|target| target.name().to_owned());
        for (path, service) in [
            ("/v1/keys", Some("keys")),
            ("/v1/keys/x/rotate", Some("keys")),
            ("/v1/keys/x/sign", Some("signing")),
            ("/v1/keys/x/sign/further", Some("signing")),
            ("/v1/keysx", None),
            ("/v1", None),
            ("/a/x", Some("a")),
            ("/a/b/c", Some("ab")),
            ("/a/bc", Some("a")),
            ("/ab", None),
        ] {
            assert_eq!(name(path).as_deref(), service, "{path}");
        }
    }

    #[test]
    fn a_tie_is_refused_names_both_and_leaves_what_was_served() {
        let router = Router::default();
        router.serve(rooms(), &[upstream("a", "/a")]).unwrap();
        let tie = router.serve_upstreams(&[upstream("b", "/b"), upstream("c", "/b")]).unwrap_err();
        assert_eq!(tie.to_string(), "`b` and `c` both claim /b");
        let tie = router.serve_upstreams(&[upstream("b", "/v1/keys")]).unwrap_err();
        assert_eq!(tie.to_string(), "`keys` and `b` both claim /v1/keys");
        assert_eq!(router.find("/a").map(|target| target.name().to_owned()).as_deref(), Some("a"));
    }
}
