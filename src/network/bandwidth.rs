//! Limits on a pod's traffic, from the two annotations that Kubernetes documents for it.

use std::collections::BTreeMap;

/// Limit for traffic to the pod, bits per second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";

/// Limit for traffic from the pod, bits per second.
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// The range that the kubelet accepts: 1 kbit/s to 1 Pbit/s.
const RANGE: std::ops::RangeInclusive<u128> = 1_000..=1_000_000_000_000_000;

/// Bits that may pass at once. Nobody can ask for a burst, so it is "as much as fits": the
/// plugin hands it to tc as bytes in 32 bits.
const BURST_BITS: u64 = u32::MAX as u64;

/// Why an annotation is no limit.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BandwidthError {
    /// Not a quantity, such as `10M`.
    #[error("annotation {annotation}: {value:?} is not a quantity such as 10M or 1Mi")]
    NotAQuantity {
        /// Its name.
        annotation: &'static str,
        /// Its value.
        value: String,
    },
    /// Below 1k or above 1P.
    #[error("annotation {annotation}: {value:?} is not between 1k and 1P")]
    OutOfRange {
        /// Its name.
        annotation: &'static str,
        /// Its value.
        value: String,
    },
}

/// Limits on a pod's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// To the pod, bits per second; none = no limit.
    pub ingress: Option<u64>,
    /// From the pod, bits per second; none = no limit.
    pub egress: Option<u64>,
}

impl Bandwidth {
    /// The limits that a pod's annotations ask for; none if they ask for none.
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, BandwidthError> {
        let limit = |name| annotations.get(name).map(|value| rate(name, value)).transpose();
        let limits = Self { ingress: limit(INGRESS)?, egress: limit(EGRESS)? };
        Ok(Some(limits).filter(|limits| *limits != Self::default()))
    }

    /// For the capability `bandwidth` of CNI: rates in bits per second, bursts in bits.
    pub(super) fn to_json(self) -> serde_json::Value {
        let mut fields = serde_json::Map::new();
        for (direction, rate) in [("ingress", self.ingress), ("egress", self.egress)] {
            if let Some(rate) = rate {
                fields.insert(format!("{direction}Rate"), rate.into());
                fields.insert(format!("{direction}Burst"), BURST_BITS.into());
            }
        }
        fields.into()
    }
}

fn rate(annotation: &'static str, value: &str) -> Result<u64, BandwidthError> {
    let bits = quantity(value)
        .ok_or_else(|| BandwidthError::NotAQuantity { annotation, value: value.to_owned() })?;
    match u64::try_from(bits) {
        Ok(rate) if RANGE.contains(&bits) => Ok(rate),
        _ => Err(BandwidthError::OutOfRange { annotation, value: value.to_owned() }),
    }
}

/// A quantity as Kubernetes writes them: a decimal number, then nothing, one of `n u m k M G T P
/// E`, one of `Ki Mi Gi Ti Pi Ei`, or `e` with an exponent. Rounded up to a whole number, as the
/// kubelet does. No negative one is a rate.
fn quantity(text: &str) -> Option<u128> {
    let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_ends);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    // Longer ones are out of every range, and would overflow.
    if digits.is_empty() || fraction.contains('.') || digits.len() > 20 {
        return None;
    }
    let digits: u128 = digits.parse().ok()?;
    let (multiplier, divisor_power) = scale(suffix)?;
    let divisor_power = divisor_power + u32::try_from(fraction.len()).ok()?;
    Some(digits.checked_mul(multiplier)?.div_ceil(10u128.checked_pow(divisor_power)?))
}

/// What a suffix multiplies by, and the power of ten that it divides by.
fn scale(suffix: &str) -> Option<(u128, u32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, 9),
        "u" => (1, 6),
        "m" => (1, 3),
        "k" => (1_000, 0),
        "M" => (1_000_000, 0),
        "G" => (1_000_000_000, 0),
        "T" => (1_000_000_000_000, 0),
        "P" => (1_000_000_000_000_000, 0),
        "E" => (1_000_000_000_000_000_000, 0),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match u32::try_from(exponent) {
                Ok(power) if power <= 18 => (10u128.pow(power), 0),
                Err(_) if exponent >= -18 => (1, exponent.unsigned_abs()),
                _ => return None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_writes_them() {
        for (text, bits) in [
            ("1000", 1000),
            ("10M", 10_000_000),
            ("1Mi", 1 << 20),
            ("500k", 500_000),
            ("1.5G", 1_500_000_000),
            ("0.5Ki", 512),
            ("1e6", 1_000_000),
            ("12E3", 12_000),
            ("1500000m", 1500),
            ("1.0001", 2),
            ("25e-1", 3),
        ] {
            assert_eq!(quantity(text), Some(bits), "{text}");
        }
        let bad = ["", "M", "-10M", "+1M", "10 M", "10mb", "1.2.3", "1e", "1e99", "0x10", "10M\n"];
        for text in bad {
            assert_eq!(quantity(text), None, "{text:?}");
        }
    }

    #[test]
    fn annotations_become_limits_and_mistakes_name_the_annotation() {
        let annotations = |pairs: &[(&str, &str)]| {
            let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            Bandwidth::from_annotations(&pairs.iter().map(owned).collect())
        };
        assert_eq!(annotations(&[("other", "x")]), Ok(None));
        let limits = annotations(&[(INGRESS, "10M"), (EGRESS, "1Mi")]).unwrap().unwrap();
        assert_eq!(limits, Bandwidth { ingress: Some(10_000_000), egress: Some(1 << 20) });
        assert_eq!(
            Bandwidth { egress: None, ..limits }.to_json(),
            serde_json::json!({"ingressRate": 10_000_000, "ingressBurst": u32::MAX})
        );
        for (value, message) in [
            ("fast", "annotation kubernetes.io/egress-bandwidth: \"fast\" is not a quantity"),
            ("-1M", "is not a quantity"),
            ("999", "is not between 1k and 1P"),
            ("2P", "is not between 1k and 1P"),
        ] {
            let error = annotations(&[(EGRESS, value)]).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
