//! The table of prefixes: a tree of path segments in which the longest prefix of a path is found in one walk.
//! Who enters: prefixes with what they lead to, at load; plain paths, each time.
//! What leaves: the one entry with the longest prefix on a segment boundary, or nothing; ties are refused at load.

use std::collections::HashMap;

/// Prefixes and what they lead to. `{name}` stands for any one segment.
#[derive(Debug)]
pub struct Prefixes<T> {
    nodes: Vec<Node>,
    entries: Vec<(String, T)>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, usize>,
    parameter: Option<usize>,
    entry: Option<usize>,
}

/// Two entries claim one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tie {
    /// The prefix of the one that came first.
    pub first: String,
    /// The prefix of the other.
    pub second: String,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { nodes: vec![Node::default()], entries: Vec::new() }
    }
}

impl<T> Prefixes<T> {
    /// Adds an entry.
    ///
    /// # Errors
    /// Another has this very prefix; parameters of other names do not tell them apart.
    pub fn add(&mut self, prefix: &str, leads_to: T) -> Result<(), Tie> {
        let node = segments(prefix).fold(0, |node, segment| self.descend(node, segment));
        if let Some(taken) = self.nodes[node].entry {
            return Err(Tie { first: self.entries[taken].0.clone(), second: prefix.to_owned() });
        }
        self.nodes[node].entry = Some(self.entries.len());
        self.entries.push((prefix.to_owned(), leads_to));
        Ok(())
    }

    /// The entry whose prefix covers most segments of the path; of two that cover as many, the one that is literal
    /// where they first differ.
    pub fn longest(&self, path: &str) -> Option<(&str, &T)> {
        let found = self.walk(0, segments(path), 0)?.1;
        self.entries.get(found).map(|(prefix, leads_to)| (prefix.as_str(), leads_to))
    }

    /// Every entry whose prefix covers the path's beginning, the shortest first.
    pub fn covering(&self, path: &str) -> Vec<(&str, &T)> {
        let covers = |(prefix, _): &&(String, T)| covers(prefix, path);
        let mut found: Vec<_> = self.entries.iter().filter(covers).collect();
        found.sort_by_key(|(prefix, _)| segments(prefix).count());
        found.into_iter().map(|(prefix, leads_to)| (prefix.as_str(), leads_to)).collect()
    }

    /// Every entry, by prefix.
    pub fn all(&self) -> Vec<(&str, &T)> {
        let mut all: Vec<_> = self.entries.iter().map(|(prefix, to)| (prefix.as_str(), to)).collect();
        all.sort_by_key(|(prefix, _)| *prefix);
        all
    }

    fn descend(&mut self, node: usize, segment: &str) -> usize {
        let next = self.nodes.len();
        let at = &mut self.nodes[node];
        let found = match segment.starts_with('{') {
            true => *at.parameter.get_or_insert(next),
            false => *at.literal.entry(segment.into()).or_insert(next),
        };
        if found == next {
            self.nodes.push(Node::default());
        }
        found
    }

    /// Literal before parameter, so the parameter's branch counts only if it reaches further. A prefix has few
    /// parameters, and each doubles the walk at most.
    fn walk<'p>(
        &self,
        node: usize,
        mut rest: impl Iterator<Item = &'p str> + Clone,
        depth: usize,
    ) -> Option<(usize, usize)> {
        let node = &self.nodes[node];
        let here = node.entry.map(|entry| (depth, entry));
        let Some(segment) = rest.next() else { return here };
        let literal = node.literal.get(segment).and_then(|next| self.walk(*next, rest.clone(), depth + 1));
        let parameter = node.parameter.and_then(|next| self.walk(next, rest, depth + 1));
        let below = match (literal, parameter) {
            (Some(literal), Some(parameter)) if parameter.0 > literal.0 => Some(parameter),
            (Some(literal), _) => Some(literal),
            (None, parameter) => parameter,
        };
        below.or(here)
    }
}

/// The path lies at or below the prefix: `/api` covers `/api/x`, and never `/apix`.
pub fn covers(prefix: &str, path: &str) -> bool {
    let mut path = segments(path);
    segments(prefix).all(|own| path.next().is_some_and(|other| own.starts_with('{') || own == other))
}

/// The segments of a plain path; the root has none.
pub fn segments(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').filter(|segment| !segment.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(prefixes: &[&str]) -> Prefixes<usize> {
        let mut table = Prefixes::default();
        for (at, prefix) in prefixes.iter().enumerate() {
            table.add(prefix, at).unwrap();
        }
        table
    }

    fn longest<'a>(table: &'a Prefixes<usize>, path: &str) -> Option<&'a str> {
        table.longest(path).map(|(prefix, _)| prefix)
    }

    #[test]
    fn a_prefix_ends_on_a_segment_boundary() {
        let table = table(&["/api", "/api/v2"]);
        assert_eq!(longest(&table, "/api/v2/x"), Some("/api/v2"));
        assert_eq!(longest(&table, "/api/v2x"), Some("/api"));
        assert_eq!(longest(&table, "/apix"), None);
        assert_eq!(longest(&table, "/"), None);
    }

    #[test]
    fn the_root_covers_what_nothing_else_does() {
        let table = table(&["/", "/a"]);
        assert_eq!(longest(&table, "/a/b"), Some("/a"));
        assert_eq!(longest(&table, "/b"), Some("/"));
    }

    #[test]
    fn more_segments_win_and_a_literal_wins_over_a_parameter_of_the_same_depth() {
        let table = table(&["/keys", "/keys/{key}/sign", "/keys/batch", "/keys/{key}"]);
        assert_eq!(longest(&table, "/keys/batch"), Some("/keys/batch"));
        assert_eq!(longest(&table, "/keys/batch/sign"), Some("/keys/{key}/sign"));
        assert_eq!(longest(&table, "/keys/a/rotate"), Some("/keys/{key}"));
    }

    #[test]
    fn a_second_claim_on_a_prefix_is_refused_and_names_both() {
        let mut table = table(&["/a/{b}"]);
        assert_eq!(table.add("/a/{c}", 9), Err(Tie { first: "/a/{b}".into(), second: "/a/{c}".into() }));
        assert!(table.add("/a/b", 9).is_ok());
    }

    /// The plainest way there is: look at every prefix, keep those that cover, take the best by the rule.
    fn oracle<'a>(prefixes: &'a [String], path: &str) -> Option<&'a str> {
        let rank = |prefix: &&String| {
            let literal: Vec<bool> = segments(prefix).map(|segment| !segment.starts_with('{')).collect();
            (literal.len(), literal)
        };
        prefixes.iter().filter(|prefix| covers(prefix, path)).max_by_key(rank).map(String::as_str)
    }

    fn prefix() -> impl Strategy<Value = String> {
        let segment = prop_oneof![3 => "[abc]", 1 => Just("{x}".to_owned()), 1 => "[ab]{2}"];
        proptest::collection::vec(segment, 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    fn path() -> impl Strategy<Value = String> {
        let segment = prop_oneof![4 => "[abc]", 1 => "[ab]{2}", 1 => "[abc]{3}"];
        proptest::collection::vec(segment, 0..7).prop_map(|segments| format!("/{}", segments.join("/")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_walk_finds_what_looking_at_every_prefix_finds(
            candidates in proptest::collection::vec(prefix(), 0..40),
            paths in proptest::collection::vec(path(), 1..30),
        ) {
            let mut table = Prefixes::default();
            let mut kept = Vec::new();
            for prefix in candidates {
                if table.add(&prefix, ()).is_ok() {
                    kept.push(prefix);
                }
            }
            for path in paths {
                let found = table.longest(&path).map(|(prefix, ())| prefix);
                prop_assert_eq!(found, oracle(&kept, &path), "{} in {:?}", path, kept);
                let covering = table.covering(&path);
                prop_assert_eq!(found.is_none(), covering.is_empty());
                prop_assert!(covering.is_sorted_by_key(|(prefix, ())| segments(prefix).count()));
            }
        }
    }
}
