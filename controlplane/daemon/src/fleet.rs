//! What all gateways of a fleet share: the key of the Maglev hash, made once and kept in etcd, so that every gateway chooses alike.

use crate::etcd::client::limited;
use anyhow::{Context, Result};
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use turnpike_wire::config::PortRange;
use turnpike_wire::update::Fleet;

/// Reads the fleet's key at `key`, or makes it: whoever comes first writes it, everybody else reads it.
pub async fn read_or_make(client: &mut Client, key: &str, node_ports: PortRange) -> Result<Fleet> {
    let fresh = uuid::Uuid::new_v4().simple().to_string();
    let absent = Compare::create_revision(key, CompareOp::Equal, 0);
    let txn = Txn::new()
        .when([absent])
        .and_then([TxnOp::put(key, fresh.clone(), None)])
        .or_else([TxnOp::get(key, None)]);
    let answer = limited(client.txn(txn)).await.with_context(|| format!("cannot read or make {key}"))?;
    let text = if answer.succeeded() {
        fresh
    } else {
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(get) => {
                get.kvs().first().map(|kv| String::from_utf8_lossy(kv.value()).into_owned())
            }
            _ => None,
        });
        found.with_context(|| format!("{key} was there and is not"))?
    };
    let bits = u128::from_str_radix(text.trim(), 16)
        .with_context(|| format!("{key} is no key of 32 hexadecimal digits; delete it, and a new one is made (flows to changed backends will move)"))?;
    Ok(Fleet {
        maglev_key: [(bits >> 64) as u64, bits as u64],
        node_ports: (node_ports.first, node_ports.last),
    })
}
