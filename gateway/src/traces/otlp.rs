//! The exporter: recorded journeys as OTLP over HTTP, in JSON, to a collector that the configuration names.
//! Who enters: complete journeys from a bounded queue.
//! What leaves: one POST for many journeys; a collector that is away costs spans, never requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::trail::{Journey, Span};
use crate::dial::{Dialer, Place};
use crate::limits::EXPORT_BATCH_MAX;

/// Where spans go.
pub struct Collector {
    /// Where it listens.
    pub place: Place,
    /// The path of its trace receiver, such as `/v1/traces`.
    pub path: String,
    /// How to reach it.
    pub dialer: Dialer,
}

const EXCHANGE_WAIT_MAX: Duration = Duration::from_secs(5);
/// OTLP's numbers for what a span is to its neighbours.
const KIND_INTERNAL: u8 = 1;
const KIND_SERVER: u8 = 2;

impl Collector {
    /// Sends what comes, until nobody sends any more. What cannot be delivered is forgotten: spans are a convenience,
    /// the ledger is the record.
    pub async fn run(self, mut queue: mpsc::Receiver<Arc<Journey>>) {
        let mut journeys = Vec::with_capacity(EXPORT_BATCH_MAX);
        let mut away = false;
        while queue.recv_many(&mut journeys, EXPORT_BATCH_MAX).await > 0 {
            let message = message(&journeys).to_string();
            journeys.clear();
            let sent = tokio::time::timeout(EXCHANGE_WAIT_MAX, self.send(message)).await;
            let failed = match sent {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(why.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            // Told when it changes, not for each batch.
            match (&failed, away) {
                (Some(why), false) => tracing::warn!(%why, "the trace collector takes no spans"),
                (None, true) => tracing::info!("the trace collector takes spans again"),
                _ => {}
            }
            away = failed.is_some();
        }
    }

    async fn send(&self, message: String) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let stream = self.dialer.dial(&self.place).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let running = tokio::spawn(connection);
        let request = Request::post(&self.path)
            .header(header::HOST, self.place.authority())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(message)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let _ = answer.into_body().frame().await;
        running.abort();
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}").into()) }
    }
}

/// An `ExportTraceServiceRequest` in OTLP's JSON: ids in hex, times as text.
fn message(journeys: &[Arc<Journey>]) -> Value {
    let spans: Vec<Value> =
        journeys.iter().flat_map(|journey| journey.spans.iter().map(|span| one(journey, span))).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            attribute("service.name", "chancery"),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
        ] },
        "scopeSpans": [{ "scope": { "name": "chancery" }, "spans": spans }],
    }] })
}

fn one(journey: &Journey, span: &Span) -> Value {
    let nanos = |after: Duration| {
        let began = u128::try_from(journey.began.micros()).unwrap_or_default() * 1000;
        (began + after.as_nanos()).to_string()
    };
    let is_root = span.id == journey.context.span();
    let mut attributes = vec![attribute("chancery.request_id", journey.request.as_str())];
    attributes.extend(span.note.as_deref().map(|note| attribute("chancery.outcome", note)));
    let mut made = json!({
        "traceId": journey.context.trace_id(),
        "spanId": hex::encode(span.id),
        "name": span.name,
        "kind": if is_root { KIND_SERVER } else { KIND_INTERNAL },
        "startTimeUnixNano": nanos(span.began),
        "endTimeUnixNano": nanos(span.began + span.took),
        "attributes": attributes,
    });
    if let Some(parent) = span.parent {
        made["parentSpanId"] = hex::encode(parent).into();
    }
    if let Some(link) = journey.link.filter(|_| is_root) {
        made["links"] = json!([{ "traceId": link.trace_id(), "spanId": hex::encode(link.span()) }]);
    }
    made
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::ids::RequestId;
    use crate::moment::Moment;
    use crate::traces::TraceContext;

    #[test]
    fn a_message_has_the_fields_that_collectors_read() {
        let context = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let span = |id, parent, name: &'static str| Span {
            id,
            parent,
            name: name.into(),
            began: Duration::from_micros(5),
            took: Duration::from_micros(7),
            note: Some("200".to_owned()),
        };
        let began = Moment::from_micros(1_700_000_000_000_000);
        let request = RequestId::at(began, &Dice::system());
        let spans = vec![span([1; 8], Some(context.span()), "ledger"), span(context.span(), None, "request")];
        let journey = Journey { request, context, link: Some(context), began, spans };
        let made = message(&[Arc::new(journey)]);
        let spans = &made["resourceSpans"][0]["scopeSpans"][0]["spans"];
        assert_eq!(spans[0]["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((&spans[0]["parentSpanId"], &spans[0]["kind"]), (&json!("00f067aa0ba902b7"), &json!(1)));
        assert_eq!(spans[0]["startTimeUnixNano"], "1700000000000005000");
        assert_eq!(spans[0]["endTimeUnixNano"], "1700000000000012000");
        assert!(spans[1].get("parentSpanId").is_none() && spans[0].get("links").is_none());
        assert_eq!(spans[1]["links"][0]["spanId"], "00f067aa0ba902b7");
    }
}
