//! How often each address is had: by Services as their own, by endpoints.

use std::collections::HashMap;
use std::net::IpAddr;

/// See the module. An address that nobody has is not in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressCounts {
    counts: HashMap<IpAddr, usize>,
}

impl AddressCounts {
    /// Whether somebody has an address.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.counts.contains_key(&address)
    }

    /// Counts each once more; gives those that nobody had.
    pub(crate) fn add(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let mut came = Vec::new();
        for address in addresses {
            let count = self.counts.entry(address).or_default();
            *count += 1;
            if *count == 1 {
                came.push(address);
            }
        }
        came
    }

    /// Counts each once less; gives those that nobody has any more.
    pub(crate) fn remove(&mut self, addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
        let mut went = Vec::new();
        for address in addresses {
            let Some(count) = self.counts.get_mut(&address) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
                went.push(address);
            }
        }
        went
    }
}

#[cfg(test)]
mod tests {
    use super::AddressCounts;

    #[test]
    fn an_address_is_there_while_somebody_has_it() {
        let [one, two] = ["10.96.0.1", "10.96.0.2"].map(|text| text.parse().unwrap());
        let mut counts = AddressCounts::default();
        assert!(counts.remove([one].into_iter()).is_empty());
        assert_eq!(counts.add([one, two, one].into_iter()), [one, two]);
        assert_eq!(counts.remove([one, two].into_iter()), [two]);
        assert!(counts.contains(one) && !counts.contains(two));
        assert_eq!(counts.remove([one].into_iter()), [one]);
        assert!(!counts.contains(one));
    }
}
