//! PyTorch's `.pth`: state dicts of plain tensors, in the ZIP layout (since 1.6) and the older one.
//!
//! ZIP: `NAME/data.pkl` holds a pickle in which a tensor is a reference to a storage (key, type, number of
//! elements) with offset, sizes and strides; `NAME/data/KEY` holds the storage's bytes. Older: five pickles
//! one after the other (magic number, protocol, facts of the machine, the object, the storages' keys), then
//! for each key a 64-bit count and the bytes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::elements::{Budget, ByteOrder, Cursor, Dtype, MAX_DIMENSIONS, StoredTensor, shown};
use super::pickle::{Global, Node, Pickle, Ref};
use super::strided::Strided;
use super::zip::Entry;
use crate::{Error, Result};

/// The older layout's magic number, 0x1950a86a20f9469cfc6c, as its pickle writes it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const PROTOCOL: i64 = 1001;

/// Longest key of a storage; PyTorch's are numbers, of storages or of addresses.
const MAX_KEY: usize = 128;

/// Whether bytes begin as the older layout does: a pickle's protocol, from 4 on a frame, the magic number.
pub(crate) fn is_old(bytes: &[u8]) -> bool {
    match bytes {
        [0x80, 2 | 3, rest @ ..] => rest.starts_with(MAGIC),
        [0x80, 4 | 5, 0x95, _, _, _, _, _, _, _, _, rest @ ..] => rest.starts_with(MAGIC),
        _ => false,
    }
}

/// Whether an archive is one of PyTorch's.
pub(crate) fn is_archive(entries: &[Entry<'_>]) -> bool {
    entries.iter().any(|e| is_data_pickle(e.name))
}

fn is_data_pickle(name: &str) -> bool {
    name == "data.pkl" || name.ends_with("/data.pkl")
}

/// A pickled object whose tensors live in storages beside it.
pub(crate) struct Archive<'a> {
    path: &'a Path,
    pickle: Pickle<'a>,
    storages: HashMap<&'a str, &'a [u8]>,
    order: ByteOrder,
}

/// What a tensor's reference to its storage says.
struct StorageId<'a> {
    dtype: Dtype,
    key: &'a str,
    count: usize,
    /// First element and number of elements of the part that is meant (before PyTorch 0.4).
    view: Option<(usize, usize)>,
}

impl<'a> Archive<'a> {
    /// Opens the ZIP layout.
    pub fn from_zip(path: &'a Path, entries: &[Entry<'a>], budget: &mut Budget) -> Result<Self> {
        let mut pickles = entries.iter().filter(|e| is_data_pickle(e.name));
        let (Some(data), None) = (pickles.next(), pickles.next()) else {
            return Err(Error::malformed(path, "the archive does not hold exactly one `data.pkl`")
                .remedy("save the state dict anew with torch.save"));
        };
        let root = data.name.strip_suffix("data.pkl").unwrap_or_default();
        let entry = |name: &str| {
            entries.iter().find(|e| e.name.strip_prefix(root).is_some_and(|n| n == name)).map(|e| e.data)
        };
        let order = match entry("byteorder") {
            None | Some(b"little") => ByteOrder::Little,
            Some(b"big") => ByteOrder::Big,
            Some(_) => return Err(Error::malformed(path, "`byteorder` is neither little nor big")),
        };
        let storages = entries
            .iter()
            .filter_map(|e| Some((e.name.strip_prefix(root)?.strip_prefix("data/")?, e.data)))
            .collect();
        Ok(Self { path, pickle: Pickle::parse(path, data.data, 0, budget)?, storages, order })
    }

    /// Opens the older layout.
    pub fn from_old(path: &'a Path, bytes: &'a [u8], budget: &mut Budget) -> Result<Self> {
        if !is_old(bytes) {
            return Err(Error::malformed(path, "this is not a file of PyTorch's older layout"));
        }
        let malformed = |message: &str| Error::malformed(path, message);
        let magic = Pickle::parse(path, bytes, 0, budget)?;
        let protocol = Pickle::parse(path, bytes, magic.end, budget)?;
        if protocol.int(protocol.root) != Some(PROTOCOL) {
            return Err(malformed("the version of PyTorch's older layout is not 1001"));
        }
        let machine = Pickle::parse(path, bytes, protocol.end, budget)?;
        let facts =
            machine.dict(machine.root).ok_or_else(|| malformed("the facts of the machine are missing"))?;
        let little = facts.iter().find(|(key, _)| machine.text(*key) == Some("little_endian"));
        let order = match little.map(|(_, value)| machine.node(*value)) {
            Some(Node::Bool(false)) => ByteOrder::Big,
            _ => ByteOrder::Little,
        };
        let pickle = Pickle::parse(path, bytes, machine.end, budget)?;
        let keys = Pickle::parse(path, bytes, pickle.end, budget)?;
        let Node::List(list) = keys.node(keys.root) else {
            return Err(malformed("the list of storages is missing"));
        };
        let mut archive = Self { path, pickle, storages: HashMap::new(), order };
        let dtypes = archive.storage_types(budget)?;
        let mut cursor = Cursor::new(path, bytes);
        cursor.at = keys.end;
        for &key in list.iter() {
            let key = keys.text(key).ok_or_else(|| malformed("a storage's key is not a text"))?;
            let count = match order {
                ByteOrder::Little => cursor.size()?,
                ByteOrder::Big => usize::try_from(u64::from_be_bytes(cursor.array()?)).unwrap_or(usize::MAX),
            };
            let dtype = dtypes
                .get(key)
                .ok_or_else(|| cursor.fail(format!("no tensor uses storage {}", shown(key))))?;
            let size = count.saturating_mul(dtype.size());
            if archive.storages.insert(key, cursor.take(size)?).is_some() {
                return Err(cursor.fail(format!("storage {} occurs twice", shown(key))));
            }
        }
        if cursor.at != bytes.len() {
            return Err(cursor.fail("there are bytes after the last storage"));
        }
        Ok(archive)
    }

    /// The element type of each storage that the object refers to.
    fn storage_types(&self, budget: &mut Budget) -> Result<HashMap<&'a str, Dtype>> {
        /// An entry here and one in the map of storages, each in a table that is half empty and just grew.
        const ENTRY: usize = 3 * (size_of::<(&str, Dtype)>() + size_of::<(&str, &[u8])>());
        let mut types = HashMap::new();
        for id in self.pickle.persistent() {
            let id = self.storage_id(id)?;
            if types.insert(id.key, id.dtype).is_some_and(|other| other != id.dtype) {
                let message = format!("storage {} has two element types", shown(id.key));
                return Err(Error::malformed(self.path, message));
            }
            budget.charge(self.path, "the list of storages", ENTRY)?;
        }
        Ok(types)
    }

    /// Understands ('storage', type, key, device, count[, view]).
    fn storage_id(&self, id: Ref) -> Result<StorageId<'a>> {
        let p = &self.pickle;
        let understood = || {
            let (&[kind, dtype, key, _device, count], rest) = p.tuple(id)?.split_first_chunk::<5>()?;
            let Node::Global(Global::Storage(dtype)) = *p.node(dtype) else { return None };
            let size = |at: Ref| usize::try_from(p.int(at)?).ok();
            let view = match rest {
                [] => None,
                [view] => match p.node(*view) {
                    Node::None => None,
                    Node::Tuple(view) => {
                        let [_, offset, count] = view[..] else { return None };
                        Some((size(offset)?, size(count)?))
                    }
                    _ => return None,
                },
                _ => return None,
            };
            (p.text(kind)? == "storage").then_some(())?;
            let key = p.text(key).filter(|key| key.len() <= MAX_KEY)?;
            Some(StorageId { dtype, key, count: size(count)?, view })
        };
        understood().ok_or_else(|| {
            Error::malformed(self.path, "the pickle refers to something that is not a tensor's storage")
                .remedy("save the file anew as a state dict of plain tensors")
        })
    }

    /// The bytes of a storage and its element type.
    fn storage(&self, id: Ref) -> Result<(Dtype, &'a [u8])> {
        let StorageId { dtype, key, count, view } = self.storage_id(id)?;
        let fail = |what: &str| {
            Error::malformed(self.path, format!("storage {} {what}", shown(key)))
                .remedy("the file is damaged: fetch it again")
        };
        let bytes = *self.storages.get(key).ok_or_else(|| fail("is missing"))?;
        if count.checked_mul(dtype.size()) != Some(bytes.len()) {
            return Err(fail(&format!(
                "has {} bytes, not {count} elements of {}",
                bytes.len(),
                dtype.name()
            )));
        }
        let Some((first, count)) = view else { return Ok((dtype, bytes)) };
        let range = first
            .checked_mul(dtype.size())
            .zip(first.checked_add(count))
            .and_then(|(start, end)| bytes.get(start..end.checked_mul(dtype.size())?));
        Ok((dtype, range.ok_or_else(|| fail("is smaller than the part that is used"))?))
    }

    /// The tensors of the state dict in the object, wherever it is nested.
    ///
    /// # Errors
    /// No state dict, or several that are equally near; tensors that do not fit their storages.
    pub fn state_dict(&self, budget: &mut Budget) -> Result<Vec<StoredTensor>> {
        let fetch = |at, name: &str, budget: &mut Budget| {
            read_tensor(self.path, &self.pickle, at, name, self.order, budget, &|id| self.storage(id))
        };
        if is_tensor(&self.pickle, self.pickle.root) {
            return Ok(vec![fetch(self.pickle.root, "tensor", budget)?]);
        }
        let mut tensors = Vec::new();
        let mut seen = HashSet::new();
        for &(key, value) in find_state_dict(self.path, &self.pickle, budget)? {
            if !is_tensor(&self.pickle, value) {
                continue;
            }
            let name = self.pickle.text(key).ok_or_else(|| {
                Error::malformed(self.path, "a tensor in the state dict has a name that is not a text")
            })?;
            if !seen.insert(name) {
                let message = format!("{} occurs twice in the state dict", shown(name));
                return Err(Error::malformed(self.path, message));
            }
            tensors.push(fetch(value, name, budget)?);
        }
        Ok(tensors)
    }
}

/// Whether a node is a tensor (or a parameter made of one).
pub(crate) fn is_tensor(pickle: &Pickle<'_>, at: Ref) -> bool {
    matches!(pickle.node(at), Node::Call(Global::RebuildTensor | Global::RebuildParameter, _, _))
}

/// A tensor whose storage is pickled within the same pickle, as in irn's class maps.
pub(crate) fn embedded_tensor(
    path: &Path,
    pickle: &Pickle<'_>,
    at: Ref,
    name: &str,
    budget: &mut Budget,
) -> Result<StoredTensor> {
    read_tensor(path, pickle, at, name, ByteOrder::Little, budget, &|_| {
        Err(Error::malformed(path, format!("the storage of {} is not in the file", shown(name))))
    })
}

type FetchStorage<'f, 'a> = dyn Fn(Ref) -> Result<(Dtype, &'a [u8])> + 'f;

fn read_tensor(
    path: &Path,
    pickle: &Pickle<'_>,
    at: Ref,
    name: &str,
    order: ByteOrder,
    budget: &mut Budget,
    fetch: &FetchStorage<'_, '_>,
) -> Result<StoredTensor> {
    let strange = |what: &str| {
        Error::malformed(path, format!("the tensor {}: {what}", shown(name)))
            .remedy("save it anew as a plain, dense tensor on the CPU")
    };
    let mut call = pickle.node(at);
    if let Node::Call(Global::RebuildParameter, arguments, _) = call {
        let inner = pickle.tuple(*arguments).and_then(|a| a.first());
        call = pickle.node(*inner.ok_or_else(|| strange("a parameter without data"))?);
    }
    let Node::Call(Global::RebuildTensor, arguments, _) = call else {
        return Err(strange("a parameter of what is no tensor"));
    };
    let arguments = pickle.tuple(*arguments).and_then(|a| a.first_chunk::<4>());
    let &[storage, offset, shape, strides] =
        arguments.ok_or_else(|| strange("storage, offset, sizes and strides are expected"))?;
    let offset = pickle.int(offset).and_then(|v| usize::try_from(v).ok());
    let offset = offset.ok_or_else(|| strange("its offset is no number, or negative"))?;
    let sizes = |at, what: &str| {
        pickle.sizes(at).ok_or_else(|| {
            strange(&format!("its {what} are no numbers, negative, or more than {MAX_DIMENSIONS}"))
        })
    };
    let (shape, strides) = (sizes(shape, "sizes")?, sizes(strides, "strides")?);
    let place = Strided { offset, shape, strides };
    let (dtype, tensor) = match pickle.node(storage) {
        Node::Persistent(id) => {
            let (dtype, bytes) = fetch(*id)?;
            (dtype, place.gather(path, name, dtype, bytes, order, budget)?)
        }
        Node::Call(Global::LoadFromBytes, arguments, _) => {
            let bytes = pickle.tuple(*arguments).and_then(|a| pickle.bytes(*a.first()?));
            let Some(Cow::Borrowed(bytes)) = bytes else { return Err(strange("its storage is missing")) };
            // Every tensor that names these bytes reads them anew: charged, so that time is bounded too.
            budget.charge(path, "storages within the pickle", bytes.len())?;
            let inner = Archive::from_old(path, bytes, budget)?;
            let Node::Persistent(id) = inner.pickle.node(inner.pickle.root) else {
                return Err(strange("what is pickled within it is no storage"));
            };
            let (dtype, bytes) = inner.storage(*id)?;
            (dtype, place.gather(path, name, dtype, bytes, inner.order, budget)?)
        }
        _ => return Err(strange("its storage is not understood")),
    };
    Ok(StoredTensor { name: name.to_string(), dtype, tensor })
}

type Entries<'p> = &'p [(Ref, Ref)];

/// A dictionary on the way down from the root.
struct Found<'p> {
    /// The one that holds it, and under which key.
    parent: Option<(usize, Ref)>,
    entries: Entries<'p>,
    depth: usize,
}

/// The dictionary that is meant by a file: of all that hold tensors, down to the fourth level, the nearest
/// one called `state_dict`, else `model`, else the one nearest to the root; among several equally near
/// nobody can say.
fn find_state_dict<'p>(path: &Path, pickle: &'p Pickle<'_>, budget: &mut Budget) -> Result<Entries<'p>> {
    const DEEPEST: usize = 4;
    let mut dicts: Vec<Found<'p>> = Vec::new();
    let mut visited = HashSet::from([pickle.root]);
    if let Some(entries) = pickle.dict(pickle.root) {
        dicts.push(Found { parent: None, entries, depth: 0 });
    }
    let mut next = 0;
    while let Some(&Found { entries, depth, .. }) = dicts.get(next) {
        for &(key, value) in entries.iter().filter(|_| depth < DEEPEST) {
            let Some(entries) = pickle.dict(value) else { continue };
            if visited.insert(value) {
                budget.charge(path, "nested dictionaries", 3 * size_of::<Found<'_>>() + 32)?;
                dicts.push(Found { parent: Some((next, key)), entries, depth: depth + 1 });
            }
        }
        next += 1;
    }
    let holds_tensors = |dict: &&Found<'p>| dict.entries.iter().any(|(_, value)| is_tensor(pickle, *value));
    let candidates: Vec<&Found<'p>> = dicts.iter().filter(holds_tensors).collect();
    let called =
        |dict: &Found<'_>, name: &str| dict.parent.and_then(|(_, key)| pickle.text(key)) == Some(name);
    // The search went level by level, so that the nearest come first.
    let nearest = |name: Option<&str>| -> Vec<&Found<'p>> {
        let mut of_name = candidates.iter().filter(|d| name.is_none_or(|name| called(d, name))).peekable();
        let depth = of_name.peek().map(|d| d.depth);
        of_name.take_while(|d| Some(d.depth) == depth).copied().collect()
    };
    for name in [Some("state_dict"), Some("model"), None] {
        if let [only] = nearest(name)[..] {
            return Ok(only.entries);
        }
    }
    if candidates.is_empty() {
        return Err(Error::malformed(path, "there are no tensors in the pickled object")
            .remedy("save the network's state dict: torch.save(model.state_dict(), …)"));
    }
    let full_name = |dict: &Found<'_>| {
        let mut keys = Vec::new();
        let mut at = dict.parent;
        while let Some((parent, key)) = at {
            let text = pickle.text(key).map(|t| t.chars().take(64).collect::<String>());
            keys.push(text.or_else(|| pickle.int(key).map(|i| i.to_string())).unwrap_or_else(|| "?".into()));
            at = dicts[parent].parent;
        }
        keys.reverse();
        shown(&keys.join("/"))
    };
    let names: Vec<String> = nearest(None).into_iter().take(12).map(full_name).collect();
    let message = format!("several dictionaries hold tensors: {}", names.join(", "));
    Err(Error::malformed(path, message).remedy("save the one that is meant by itself"))
}
#[cfg(test)]
#[path = "torch_tests.rs"]
mod tests;
