//! [`AddResult`]: what an ADD made, one type for all versions of the specification.
//!
//! Reading accepts any of our versions; writing gives exactly the fields of one, because plugins
//! read `prevResult` strictly by the version that the network speaks.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::version::Version;

/// Why a result cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Not JSON, more than one document, or a field of the wrong type.
    #[error("parse the result")]
    Json(#[source] serde_json::Error),
    /// Written in a version that we do not speak.
    #[error("the result has cniVersion {0:?}")]
    Version(String),
    /// An address is on an interface that is not in the list.
    #[error("address {address} is on interface {index} of {interfaces}")]
    NoSuchInterface {
        /// The address.
        address: Address,
        /// Its index.
        index: usize,
        /// Length of the list.
        interfaces: usize,
    },
}

/// Not an address with the length of its network (`10.1.0.5/16`).
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an address with a prefix length, such as 10.1.0.5/16")]
pub struct AddressError(String);

/// An address with the length of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Leading bits that its network shares.
    pub prefix: u8,
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError(text.to_owned());
        let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        if prefix > longest { Err(wrong()) } else { Ok(Self { ip, prefix }) }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;
    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// An interface, in the container or on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest packet, bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace that it is in; empty or none = the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// A socket that stands for it (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket_path: Option<String>,
    /// Its PCI device (1.1.0).
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci_id: Option<String>,
}

/// An address that was given.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Ip {
    /// The address.
    pub address: Address,
    /// Default gateway of its network.
    #[serde(default, deserialize_with = "address_or_empty")]
    pub gateway: Option<IpAddr>,
    /// Index into [`AddResult::interfaces`]; none = not said.
    #[serde(default)]
    pub interface: Option<usize>,
}

/// A route that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination, in the notation of a network.
    pub dst: String,
    /// Next hop.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "address_or_empty"
    )]
    pub gw: Option<IpAddr>,
    /// Largest packet along it (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Segment size to advertise (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Lower is preferred (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope of the destinations (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u32>,
}

/// What the network says about name resolution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Servers, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What an ADD made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AddResult {
    /// Interfaces in the container and on the host.
    #[serde(default, deserialize_with = "list_or_null")]
    pub interfaces: Vec<Interface>,
    /// Addresses, most important first.
    #[serde(default, deserialize_with = "list_or_null")]
    pub ips: Vec<Ip>,
    /// Routes.
    #[serde(default, deserialize_with = "list_or_null")]
    pub routes: Vec<Route>,
    /// Name resolution.
    #[serde(default)]
    pub dns: Dns,
}

impl AddResult {
    /// Reads a plugin's output. `spoken` is the version it was asked in, which counts where the
    /// output names none.
    pub fn parse(text: &[u8], spoken: Version) -> Result<Self, ResultError> {
        Self::from_value(serde_json::from_slice(text).map_err(ResultError::Json)?, spoken)
    }

    /// The same for JSON that is parsed already.
    pub fn from_value(value: Value, spoken: Version) -> Result<Self, ResultError> {
        match value.get("cniVersion") {
            None => {}
            Some(Value::String(text)) if text.is_empty() || Version::find(text).is_some() => {}
            Some(other) => {
                let text = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                return Err(ResultError::Version(text));
            }
        }
        let mut result: Self = serde_json::from_value(value).map_err(ResultError::Json)?;
        let interfaces = result.interfaces.len();
        for ip in &result.ips {
            if let Some(index) = ip.interface.filter(|index| *index >= interfaces) {
                let address = ip.address;
                return Err(ResultError::NoSuchInterface { address, index, interfaces });
            }
        }
        if spoken < Version::V1_1_0 {
            result.drop_what_1_1_added();
        }
        Ok(result)
    }

    /// As JSON of one version.
    pub fn to_value(&self, version: Version) -> Value {
        let mut result = self.clone();
        if version < Version::V1_1_0 {
            result.drop_what_1_1_added();
        }
        let mut ips = Vec::with_capacity(result.ips.len());
        for ip in &result.ips {
            let mut fields = Map::new();
            fields.insert("address".to_owned(), ip.address.to_string().into());
            if let Some(gateway) = ip.gateway {
                fields.insert("gateway".to_owned(), gateway.to_string().into());
            }
            if let Some(index) = ip.interface {
                fields.insert("interface".to_owned(), index.into());
            }
            if version < Version::V1_0_0 {
                let family = if ip.address.ip.is_ipv4() { "4" } else { "6" };
                fields.insert("version".to_owned(), family.into());
            }
            ips.push(Value::Object(fields));
        }
        let part = |part: serde_json::Result<Value>| {
            part.expect("maps of strings, numbers and lists always become JSON")
        };
        let mut value = Map::new();
        value.insert("cniVersion".to_owned(), version.as_str().into());
        if !result.interfaces.is_empty() {
            value.insert("interfaces".to_owned(), part(serde_json::to_value(&result.interfaces)));
        }
        if !ips.is_empty() {
            value.insert("ips".to_owned(), ips.into());
        }
        if !result.routes.is_empty() {
            value.insert("routes".to_owned(), part(serde_json::to_value(&result.routes)));
        }
        value.insert("dns".to_owned(), part(serde_json::to_value(&result.dns)));
        Value::Object(value)
    }

    fn drop_what_1_1_added(&mut self) {
        for interface in &mut self.interfaces {
            interface.mtu = None;
            interface.socket_path = None;
            interface.pci_id = None;
        }
        for route in &mut self.routes {
            route.mtu = None;
            route.advmss = None;
            route.priority = None;
            route.table = None;
            route.scope = None;
        }
    }

    /// Addresses that are inside the namespace at `netns`, in the plugin's order.
    ///
    /// An address without an interface counts; one on an interface of the host, or of another
    /// namespace, does not. The specification says that `sandbox` *should* be the path that was
    /// given, so another path counts if it leads to the same namespace.
    pub fn addresses_in(&self, netns: &Path) -> Vec<IpAddr> {
        let inside = |index: usize| {
            let sandbox = self.interfaces.get(index).and_then(|i| i.sandbox.as_deref());
            sandbox.is_some_and(|path| !path.is_empty() && is_same_file(path.as_ref(), netns))
        };
        let counted = self.ips.iter().filter(|ip| ip.interface.is_none_or(inside));
        counted.map(|ip| ip.address.ip).collect()
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Go plugins write a missing address as `""` or leave it out.
fn address_or_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(from)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// Go plugins write an empty list as `null`.
fn list_or_null<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
