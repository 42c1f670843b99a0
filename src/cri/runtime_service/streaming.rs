//! Exec, Attach, PortForward: each checks its request and answers with a URL.

use tonic::Status;

use crate::stream::Wanted;

use super::super::answer::{Reply, answer};
use super::super::audit::{Caller, short};
use super::super::pb;
use super::super::status::{invalid, status};
use super::{Runtime, command, query};

/// Ports of one request: as many as a WebSocket has pairs of channels.
const MAX_PORTS: usize = 127;

impl Runtime {
    pub(super) fn exec_url(
        &self,
        caller: &Caller,
        request: pb::ExecRequest,
    ) -> Reply<pb::ExecResponse> {
        let pb::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        let query = query("container_id", &container_id)?;
        let cmd = command(cmd)?;
        let wanted = streams(Wanted { stdin, stdout, stderr, tty })?;
        caller.asks("Exec", &container_id, &short(cmd.first().map_or("", String::as_str)));
        let url = self.streaming.exec(&query, cmd, wanted).map_err(|error| status(&error))?;
        answer(pb::ExecResponse { url })
    }

    pub(super) fn attach_url(
        &self,
        caller: &Caller,
        request: pb::AttachRequest,
    ) -> Reply<pb::AttachResponse> {
        let pb::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        let query = query("container_id", &container_id)?;
        let wanted = streams(Wanted { stdin, stdout, stderr, tty })?;
        caller.asks("Attach", &container_id, if stdin { "stdin" } else { "" });
        let url = self.streaming.attach(&query, wanted).map_err(|error| status(&error))?;
        answer(pb::AttachResponse { url })
    }

    pub(super) fn port_forward_url(
        &self,
        caller: &Caller,
        request: pb::PortForwardRequest,
    ) -> Reply<pb::PortForwardResponse> {
        let pb::PortForwardRequest { pod_sandbox_id, port } = request;
        let query = query("pod_sandbox_id", &pod_sandbox_id)?;
        if port.len() > MAX_PORTS {
            let problem = format!("port: {} ports, at most {MAX_PORTS}", port.len());
            return Err(invalid(problem));
        }
        let ports: Result<Vec<u16>, Status> = port
            .into_iter()
            .map(|port| match u16::try_from(port) {
                Ok(port @ 1..) => Ok(port),
                _ => Err(invalid(format!("port: {port} is not in the range 1 to 65535"))),
            })
            .collect();
        caller.asks("PortForward", &pod_sandbox_id, "");
        let url = self.streaming.port_forward(&query, ports?).map_err(|error| status(&error))?;
        answer(pb::PortForwardResponse { url })
    }
}

/// The rules of `ExecRequest` and `AttachRequest` in api.proto.
fn streams(wanted: Wanted) -> Result<Wanted, Status> {
    if wanted.tty && wanted.stderr {
        return Err(invalid("stderr: a terminal has no standard error of its own"));
    }
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err(invalid("stdin, stdout, stderr: none of them is asked for"));
    }
    Ok(wanted)
}
