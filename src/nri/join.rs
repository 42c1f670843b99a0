//! A plugin from its first byte to its last: it registers, is configured, enters the list, gets its
//! picture of what there is, and is heard until it goes.
//!
//! It enters the list before the picture is taken, and what happens from then on waits until it has
//! its picture; see [`Told`](super::Told) for why nothing is lost and nothing comes twice. Plugins
//! that join do not wait for one another and hold up nobody but those who would have to tell them.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::chain;
use crate::seldom::Seldom;

use super::error::CallError;
use super::link::{Incoming, Link};
use super::plugin::Plugin;
use super::ttrpc::code;
use super::wire::{
    ConfigureRequest, ConfigureResponse, ContainerUpdate, Empty, RegisterRequest,
    SynchronizeRequest, SynchronizeResponse, UpdateContainersRequest, UpdateContainersResponse,
};
use super::{Identity, Picture, Plugins};

/// Version of NRI that we speak; plugins read it to know which fields count.
const VERSION: &str = "v0.12.0";

/// Every event there is: what a plugin that names none is told of.
const ALL_EVENTS: i32 = (1 << 14) - 1;

/// The longest part of a picture; leaves room for the envelope.
const MAX_PART: usize = super::ttrpc::MAX_BODY - (64 << 10);

/// The longest name of a plugin; it is in every log line about it.
const MAX_NAME: usize = 128;

/// Why a plugin did not come to be one.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("it did not register within {0:?}")]
    Silent(Duration),
    #[error("it went before it registered")]
    Gone,
    #[error("{0}")]
    Nonsense(String),
    #[error("configure it")]
    Configure(#[source] CallError),
    #[error("synchronize it")]
    Synchronize(#[source] CallError),
    #[error("it does not understand a picture in parts, and there is too much for one")]
    NoParts,
}

/// Lives with one plugin to its end. `identity` is known of those that were started by us; `joined`
/// goes when the plugin has its picture, or is gone.
pub(super) async fn join(
    plugins: Plugins,
    stream: UnixStream,
    identity: Option<Identity>,
    joined: Option<oneshot::Sender<()>>,
) {
    let (link, calls) = Link::open(stream);
    let who = identity.as_ref().map(|known| format!("{}-{}", known.index, known.name));
    if let Err(error) = live(&plugins, &link, calls, (identity, joined)).await {
        static SENT_AWAY: Seldom = Seldom::new();
        // One that we started comes once; a program that connects may do it again and again.
        match &who {
            Some(_) => tracing::warn!(plugin = who, error = chain(&error), "a plugin is sent away"),
            None => {
                if let Some(times) = SENT_AWAY.again() {
                    tracing::warn!(error = chain(&error), times, "a plugin is sent away");
                }
            }
        }
    }
    link.close();
}

async fn live(
    plugins: &Plugins,
    link: &Link,
    mut calls: mpsc::Receiver<Incoming>,
    (identity, joined): (Option<Identity>, Option<oneshot::Sender<()>>),
) -> Result<(), Unfit> {
    let within = plugins.0.registration_timeout;
    let registration = tokio::time::timeout(within, register(&mut calls, identity));
    let identity = registration.await.map_err(|_| Unfit::Silent(within))??;
    let events = configure(plugins, link, &identity).await?;
    let (synchronized, gate) = watch::channel(false);
    let plugin = plugins.enter(|serial| {
        let name = (identity.index, identity.name);
        Plugin::new(serial, name, events, (link.clone(), plugins.0.request_timeout), gate)
    });
    // It is in the list until its connection ends, whatever becomes of it.
    let _listed = Listed { plugins, plugin: &plugin };
    tracing::info!(plugin = plugin.full_name, events, "registered");
    drop(crate::steps::spawn("calls of a plugin", serve(plugins.clone(), plugin.clone(), calls)));
    let updates = synchronize(plugins, &plugin).await?;
    synchronized.send_replace(true);
    tracing::info!(plugin = plugin.full_name, "synchronized");
    plugins.apply_and_log(updates).await;
    drop(joined);
    link.ended().await;
    tracing::info!(plugin = plugin.full_name, "disconnected");
    Ok(())
}

struct Listed<'a> {
    plugins: &'a Plugins,
    plugin: &'a Arc<Plugin>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.plugins.leave(self.plugin);
    }
}

/// Waits for the plugin's first call, which is its registration.
async fn register(
    calls: &mut mpsc::Receiver<Incoming>,
    identity: Option<Identity>,
) -> Result<Identity, Unfit> {
    loop {
        let call = calls.recv().await.ok_or(Unfit::Gone)?;
        if call.method != "RegisterPlugin" {
            call.answer(Err((code::UNKNOWN, "register first".to_owned()))).await;
            continue;
        }
        let request = RegisterRequest::decode(call.payload.as_slice());
        let checked = match (request, &identity) {
            (Err(error), _) => Err(format!("its registration is no such message: {error}")),
            // Who was started by us is who we started.
            (Ok(_), Some(known)) => Ok(known.clone()),
            (Ok(request), None) => check(request),
        };
        return match checked {
            Ok(identity) => {
                call.answer(Ok(Empty {}.encode_to_vec())).await;
                Ok(identity)
            }
            Err(problem) => {
                call.answer(Err((code::INVALID_ARGUMENT, problem.clone()))).await;
                Err(Unfit::Nonsense(problem))
            }
        };
    }
}

fn check(request: RegisterRequest) -> Result<Identity, String> {
    let RegisterRequest { plugin_name: name, plugin_idx: index, .. } = request;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
        return Err(format!("{name:?} is no name of a plugin"));
    }
    if !is_index(&index) {
        return Err(format!("{index:?} is no index of a plugin: two digits"));
    }
    Ok(Identity { index, name, config: String::new() })
}

/// Two digits.
pub(super) fn is_index(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|c| c.is_ascii_digit())
}

/// Configures the plugin; returns what it wants to hear of.
async fn configure(plugins: &Plugins, link: &Link, identity: &Identity) -> Result<i32, Unfit> {
    let milliseconds = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let request = ConfigureRequest {
        config: identity.config.clone(),
        runtime_name: plugins.0.runtime.0.to_owned(),
        runtime_version: plugins.0.runtime.1.to_owned(),
        registration_timeout: milliseconds(plugins.0.registration_timeout),
        request_timeout: milliseconds(plugins.0.request_timeout),
        nri_version: VERSION.to_owned(),
    };
    let within = plugins.0.request_timeout;
    let answer = link.call("Configure", request.encode_to_vec(), within).await;
    let answer = answer.and_then(|payload| Ok(ConfigureResponse::decode(payload.as_slice())?));
    match answer.map_err(Unfit::Configure)?.events {
        0 => Ok(ALL_EVENTS),
        events if events & !ALL_EVENTS == 0 => Ok(events),
        events => Err(Unfit::Nonsense(format!("it wants events that there are none: {events:#x}"))),
    }
}

/// Gives the plugin its picture, in as many parts as it takes. Each may take as long as a
/// registration: there is more to do than for one event, and it happens once.
async fn synchronize(plugins: &Plugins, plugin: &Plugin) -> Result<Vec<ContainerUpdate>, Unfit> {
    let picture = plugins.picture().await;
    let within = plugins.0.registration_timeout;
    for part in parts(picture) {
        let answer = plugin.link.call("Synchronize", part.encode_to_vec(), within).await;
        let answer =
            answer.and_then(|payload| Ok(SynchronizeResponse::decode(payload.as_slice())?));
        let answer = answer.map_err(Unfit::Synchronize)?;
        if !part.more {
            return Ok(answer.update);
        }
        if !answer.more || !answer.update.is_empty() {
            return Err(Unfit::NoParts);
        }
    }
    Ok(Vec::new())
}

/// A picture as messages that the protocol takes; all but the last say that more follows.
fn parts(picture: Picture) -> Vec<SynchronizeRequest> {
    let (mut parts, mut last, mut size) = (Vec::new(), SynchronizeRequest::default(), 0);
    let mut room_for = |length: usize, last: &mut SynchronizeRequest| {
        // A field has at most six bytes of tag and length in front.
        let length = length + 6;
        if size > 0 && size + length > MAX_PART {
            parts.push(SynchronizeRequest { more: true, ..std::mem::take(last) });
            size = 0;
        }
        size += length;
    };
    for pod in picture.pods {
        room_for(pod.encoded_len(), &mut last);
        last.pods.push(pod);
    }
    for container in picture.containers {
        room_for(container.encoded_len(), &mut last);
        last.containers.push(container);
    }
    parts.push(last);
    parts
}

/// Answers the plugin's own calls, one after the other, until its connection ends.
async fn serve(plugins: Plugins, plugin: Arc<Plugin>, mut calls: mpsc::Receiver<Incoming>) {
    while let Some(call) = calls.recv().await {
        let result = match call.method.as_str() {
            "UpdateContainers" => update(&plugins, &plugin, &call.payload).await,
            "RegisterPlugin" => Err((code::INVALID_ARGUMENT, "is registered already".to_owned())),
            other => Err((code::UNIMPLEMENTED, format!("no method {other:?}"))),
        };
        call.answer(result).await;
    }
}

/// Updates that no request asked for: those that failed are in the answer.
async fn update(
    plugins: &Plugins,
    plugin: &Plugin,
    payload: &[u8],
) -> Result<Vec<u8>, (i32, String)> {
    let request = UpdateContainersRequest::decode(payload)
        .map_err(|error| (code::INVALID_ARGUMENT, error.to_string()))?;
    if let Some(eviction) = request.evict.first() {
        let error = super::merge::no_eviction(&plugin.full_name, &eviction.container_id);
        return Err((code::UNIMPLEMENTED, error.to_string()));
    }
    let mut failed = Vec::new();
    for update in request.update {
        if let Err(error) = plugins.apply(&update).await {
            let error = chain(&error);
            tracing::warn!(plugin = plugin.full_name, error, "an update that it asked for");
            if !update.ignore_failure {
                failed.push(update);
            }
        }
    }
    Ok(UpdateContainersResponse { failed }.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nri::wire::{Container, Pod};

    fn container(id: usize, size: usize) -> Container {
        Container { id: format!("c{id}"), name: "x".repeat(size), ..Container::default() }
    }

    #[test]
    fn a_large_picture_is_cut_into_parts_that_fit_and_loses_nothing() {
        let pods = (0..3).map(|id| Pod { id: format!("p{id}"), ..Pod::default() }).collect();
        let containers = (0..40).map(|id| container(id, 400 << 10)).collect();
        let parts = parts(Picture { pods, containers });
        assert!(parts.len() > 3);
        assert!(parts.iter().all(|part| part.encoded_len() <= super::super::ttrpc::MAX_BODY));
        let more: Vec<bool> = parts.iter().map(|part| part.more).collect();
        assert!(more[..more.len() - 1].iter().all(|more| *more) && !more[more.len() - 1]);
        let ids: Vec<_> =
            parts.iter().flat_map(|part| &part.containers).map(|c| c.id.clone()).collect();
        assert_eq!(ids, (0..40).map(|id| format!("c{id}")).collect::<Vec<_>>());
        assert_eq!(parts[0].pods.len(), 3);
        // Nothing at all is one part, which says that there is nothing.
        assert_eq!(super::parts(Picture::default()), [SynchronizeRequest::default()]);
    }

    #[test]
    fn a_registration_needs_a_name_and_two_digits() {
        let register = |name: &str, index: &str| {
            let (plugin_name, plugin_idx) = (name.to_owned(), index.to_owned());
            check(RegisterRequest { plugin_name, plugin_idx, ..RegisterRequest::default() })
        };
        assert!(register("a.b-c_d+1", "07").is_ok());
        for (name, index) in [("", "00"), ("a b", "00"), ("a/b", "00"), ("a", "1"), ("a", "x1")] {
            assert!(register(name, index).is_err(), "{name:?} {index:?}");
        }
        assert!(register(&"n".repeat(129), "00").is_err());
    }
}
