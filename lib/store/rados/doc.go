// Package rados is a store in a pool of Ceph, through librados.
//
// # Layout
//
// A store has a name, its namespace, "distci" unless the address gives another
// one, and two namespaces of the pool. NAME.data holds bytes: an object of the
// store is cut into chunks of 4 MiB, named ID.NUMBER, where the id is new for
// each Put. NAME.index holds what is valid: RADOS objects whose omaps map the
// store's keys to entries, which say where the bytes are; see entry.go.
//
// The bytes are written first and the entry last, in one operation that
// compares and sets, so an object appears at once or not at all, and a writer
// that is killed leaves bytes without an entry: garbage, which Sweep finds.
//
// The index is cut into shards, each with the keys from its start up to the
// start of the next; the object "root" lists them. A list of keys in order is
// a read of one shard, or of neighbours. A shard that has grown over its limit
// is split in two; see split.go.
//
// What Append adds goes to the entry's tail, a RADOS object of its own, whose
// size is a part of the object's. An append is one operation there, which
// fails unless the tail is as its writer knows it. Whoever replaces or deletes
// the object seals the tail before, so that no append can be lost.
//
// What was replaced is not removed at once, for the sake of its readers: the
// operation that replaces it leaves a note in the index, and the bytes go a
// quarter of an hour later, with a later write or with Sweep.
//
// The objects watch.0 to watch.f of the index are empty: they are what clients
// watch and notify; see watch.go.
//
// It needs the class cmpomap, that is Ceph 16 or later.
package rados
