//! Routing and forwarding, end to end: the real daemon before real upstreams that fail on command.
//! Who enters: members with a scope for an upstream, operators, people who speak HTTP badly on purpose.
//! What leaves: failures by name, such as a neighbour that waited or a request that was carried out twice.

mod breaking;
mod forwarding;
mod hygiene;
mod neighbours;
mod reload;
mod retries;
mod tracing;

use promises::plan::Hardware;
use promises::{Appliance, Member, Plan};
use simulators::Upstream;
use toml::{Table, Value};

/// What tests of an upstream stand on.
pub(crate) struct Ground {
    pub(crate) house: Appliance,
    pub(crate) member: Member,
}

/// The table of an upstream before these endpoints.
pub(crate) fn table(name: &str, prefix: &str, endpoints: &[String]) -> Table {
    let mut table = Table::new();
    table.insert("name".into(), name.into());
    table.insert("prefix".into(), prefix.into());
    table.insert("endpoints".into(), endpoints.to_vec().into());
    table
}

/// The table of an upstream with one endpoint, and settings of its own.
pub(crate) fn before(name: &str, upstream: &Upstream, settings: &[(&str, Value)]) -> Table {
    let mut table = table(name, &format!("/{name}"), &[upstream.endpoint()]);
    table.extend(settings.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    table
}

/// An appliance before these upstreams, and a member who may use them all.
pub(crate) async fn ground(tables: Vec<Table>) -> Ground {
    let scopes: Vec<String> =
        tables.iter().map(|table| format!("upstream:{}", text(table, "name"))).collect();
    let mut scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    scopes.extend(["sign", "keys:read", "keys:manage"]);
    let house = Plan::with(Hardware::Token).set("upstream", tables).start().await;
    let member = house.member_with("acme", &scopes).await;
    Ground { house, member }
}

fn text<'a>(table: &'a Table, key: &str) -> &'a str {
    table[key].as_str().expect("a text")
}
