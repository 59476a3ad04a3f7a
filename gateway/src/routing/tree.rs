//! The routes of one service as a tree of path segments: a path finds its route in as many steps as it has segments.
//! Who enters: routes, at start; a request's plain path and method, each time.
//! What leaves: one route with its parameters, or why there is none.

use std::collections::HashMap;

use crate::api::{Method, Route};

/// All routes of a service.
#[derive(Default)]
pub struct RouteTree {
    root: Node,
    routes: Vec<Route>,
}

#[derive(Default)]
struct Node {
    literal: HashMap<&'static str, Node>,
    parameter: Option<Box<Node>>,
    methods: Vec<(Method, usize)>,
}

/// What the tree says of a path and method.
pub enum Found<'a> {
    /// The route and its parameters.
    Route(&'a Route, Vec<String>),
    /// The path exists with these methods only.
    OtherMethods(Vec<Method>),
    /// No such path.
    Nothing,
}

/// Two routes claim the same place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two routes claim {method} {pattern}")]
pub struct Claimed {
    method: &'static str,
    pattern: &'static str,
}

impl RouteTree {
    /// Builds the tree.
    ///
    /// # Errors
    /// Two routes with the same method and pattern.
    pub fn new(routes: Vec<Route>) -> Result<Self, Claimed> {
        let mut tree = Self { root: Node::default(), routes };
        for (at, route) in tree.routes.iter().enumerate() {
            let node = segments(route.pattern).fold(&mut tree.root, Node::descend);
            if node.methods.iter().any(|(method, _)| *method == route.method) {
                return Err(Claimed { method: route.method.text(), pattern: route.pattern });
            }
            node.methods.push((route.method, at));
        }
        Ok(tree)
    }

    /// Finds the route for a path; a literal segment wins over a parameter.
    pub fn find(&self, method: &http::Method, path: &str) -> Found<'_> {
        let mut node = &self.root;
        let mut params = Vec::new();
        for segment in segments(path) {
            if let Some(next) = node.literal.get(segment) {
                node = next;
            } else if let Some(next) = node.parameter.as_deref().filter(|_| !segment.is_empty()) {
                node = next;
                params.push(segment.to_owned());
            } else {
                return Found::Nothing;
            }
        }
        // Whatever can be read can be asked for its head alone; the boundary leaves the body out.
        let wanted = if method == http::Method::HEAD { "GET" } else { method.as_str() };
        match node.methods.iter().find(|(known, _)| known.text() == wanted) {
            Some((_, at)) => Found::Route(&self.routes[*at], params),
            None if node.methods.is_empty() => Found::Nothing,
            None => Found::OtherMethods(node.methods.iter().map(|(method, _)| *method).collect()),
        }
    }

    /// Every route, for the description and the access matrix.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

impl Node {
    fn descend(&mut self, segment: &'static str) -> &mut Self {
        if segment.starts_with('{') {
            self.parameter.get_or_insert_default()
        } else {
            self.literal.entry(segment).or_default()
        }
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::{Open, Reply};

    fn route(method: Method, pattern: &'static str) -> Route {
        let unguarded = match method {
            Method::Get => Route::get(pattern),
            Method::Post => Route::post(pattern),
            Method::Delete => Route::delete(pattern),
        };
        unguarded.guard::<Open>().to(Arc::new(()), |_, (), (), _| async { Ok(Reply::empty()) })
    }

    fn tree() -> RouteTree {
        let patterns = ["/v1/keys", "/v1/keys/{key}", "/v1/keys/{key}/sign", "/v1/keys/batch"];
        let mut routes: Vec<_> = patterns.iter().map(|pattern| route(Method::Post, pattern)).collect();
        routes.push(route(Method::Get, "/v1/keys"));
        RouteTree::new(routes).unwrap()
    }

    fn found(path: &str) -> Option<(&'static str, Vec<String>)> {
        match tree().find(&http::Method::POST, path) {
            Found::Route(route, params) => Some((route.pattern, params)),
            _ => None,
        }
    }

    #[test]
    fn a_literal_wins_over_a_parameter() {
        assert_eq!(found("/v1/keys/batch"), Some(("/v1/keys/batch", vec![])));
        assert_eq!(found("/v1/keys/abc/sign"), Some(("/v1/keys/{key}/sign", vec!["abc".into()])));
    }

    #[test]
    fn empty_and_extra_segments_find_nothing() {
        for path in ["/v1/keys/", "/v1/keys//sign", "//v1/keys", "/v1/keys/a/sign/", "/", "/v1"] {
            assert_eq!(found(path), None, "{path}");
        }
    }

    #[test]
    fn another_method_is_told_apart_from_nothing() {
        let tree = tree();
        assert!(
            matches!(tree.find(&http::Method::DELETE, "/v1/keys"), Found::OtherMethods(methods) if methods.len() == 2)
        );
        assert!(matches!(tree.find(&http::Method::DELETE, "/v2"), Found::Nothing));
    }

    #[test]
    fn a_second_claim_on_a_place_is_refused() {
        let twice = vec![route(Method::Get, "/a/{b}"), route(Method::Get, "/a/{c}")];
        assert!(RouteTree::new(twice).is_err());
    }
}
