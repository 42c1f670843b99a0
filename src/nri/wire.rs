//! The messages of NRI and of ttrpc, generated from `proto/nri` and `proto/ttrpc`.
//!
//! They are also the plain data that core and this module talk in: a second set of types would say
//! the same again, field by field.

// Generated code answers to the generator's lints.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/nri.v1alpha1.rs"));
}

#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::too_many_lines)]
pub(super) mod ttrpc {
    include!(concat!(env!("OUT_DIR"), "/ttrpc.rs"));
}

pub use messages::*;

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn fields_out_of_order_are_where_other_implementations_put_them() {
        let adjustment =
            ContainerAdjustment { args: vec!["x".to_owned()], ..ContainerAdjustment::default() };
        assert_eq!(adjustment.encode_to_vec(), [0x4a, 1, b'x']); // 9, length-delimited
        assert_eq!(ConfigureResponse { events: 5 }.encode_to_vec(), [0x10, 5]); // starts at 2
        let container = Container {
            image: Some(Image { name: "i".to_owned(), ..Image::default() }),
            ..Container::default()
        };
        assert_eq!(container.encode_to_vec(), [0xb2, 0x01, 3, 0x0a, 1, b'i']); // 22
        let resources =
            LinuxResources { pids: Some(LinuxPids { limit: 9 }), ..LinuxResources::default() };
        assert_eq!(resources.encode_to_vec(), [0x42, 2, 0x08, 9]); // 8
        let empty = LinuxMemory { limit: Some(OptionalInt { value: 0 }), ..LinuxMemory::default() };
        // Zero that was asked for is not the same as nothing asked.
        assert_eq!(empty.encode_to_vec(), [0x0a, 0]);
    }
}
