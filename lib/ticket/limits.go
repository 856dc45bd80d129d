package ticket

import (
	"bytes"
	"encoding/json"
	"errors"
)

// Limits is what a ticket's tool may use. Zero leaves it to the worker.
type Limits struct {
	Memory    int64   `json:"memory,omitempty"` // bytes
	CPUs      float64 `json:"cpus,omitempty"`   // processors' worth of time
	Processes int     `json:"pids,omitempty"`   // processes and threads
	Disk      int64   `json:"disk,omitempty"`   // bytes
}

// UnmarshalJSON reads an object. A key that is not known is an error, as a limit
// that nobody keeps would be none.
func (l *Limits) UnmarshalJSON(b []byte) error {
	type plain Limits // without this method
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode((*plain)(l)); err != nil {
		return err
	}
	if l.Memory < 0 || l.CPUs < 0 || l.Processes < 0 || l.Disk < 0 {
		return errors.New("negative")
	}
	return nil
}
