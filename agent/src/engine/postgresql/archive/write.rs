//! Header and TOC as bytes again: a restore hands `pg_restore` a TOC of its own, and the blocks as they are.

use super::toc::{Compression, Entry, Header, Toc};

impl Toc {
    /// The bytes of header and TOC. What was read with everything kept comes out byte for byte.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = &self.header;
        let mut out = b"PGDMP".to_vec();
        out.extend([
            header.version.major,
            header.version.minor,
            header.revision,
            header.int_size,
            header.offset_size,
            1,
        ]);
        let compression = match header.compression {
            Compression::None => 0,
            Compression::Some(value) => value,
        };
        if header.version.minor >= 15 {
            out.push(u8::try_from(compression).unwrap_or_default());
        } else {
            number(&mut out, header, compression);
        }
        for value in header.time {
            number(&mut out, header, value);
        }
        for value in [&header.database, &header.server_version, &header.tool_version] {
            text(&mut out, header, Some(value));
        }
        number(&mut out, header, i64::try_from(self.entries.len()).unwrap_or(i64::MAX));
        for entry in &self.entries {
            entry.write(&mut out, header);
        }
        out
    }
}

impl Entry {
    fn write(&self, out: &mut Vec<u8>, header: &Header) {
        number(out, header, self.dump_id);
        number(out, header, self.has_data.into());
        for value in [&self.table_oid, &self.oid, &self.tag, &self.desc] {
            text(out, header, value.as_deref());
        }
        number(out, header, self.section);
        for value in [
            &self.definition,
            &self.drop,
            &self.copy,
            &self.namespace,
            &self.tablespace,
            &self.access_method,
        ] {
            text(out, header, value.as_deref());
        }
        if header.version.minor >= 16 {
            number(out, header, self.relkind);
        }
        text(out, header, self.owner.as_deref());
        text(out, header, self.with_oids.as_deref());
        for dependency in &self.dependencies {
            text(out, header, Some(dependency));
        }
        text(out, header, None);
        out.extend_from_slice(&self.offset);
    }
}

fn number(out: &mut Vec<u8>, header: &Header, value: i64) {
    out.push(value.is_negative().into());
    out.extend_from_slice(&value.unsigned_abs().to_le_bytes()[..header.int_size.into()]);
}

fn text(out: &mut Vec<u8>, header: &Header, value: Option<&[u8]>) {
    let Some(value) = value else { return number(out, header, -1) };
    number(out, header, i64::try_from(value.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(value);
}
