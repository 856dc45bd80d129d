package engine

import (
	"context"
	"io/fs"
	"path/filepath"
	"syscall"
	"time"
)

// File systems rarely have quotas that we could use, so the use of disk is
// counted, again and again, but never for more than a twentieth of the time. A
// program may pass the limit for a moment; no single file of its can
// (RLIMIT_FSIZE).

const (
	diskPause = 200 * time.Millisecond // between two counts at least
	diskShare = 20                     // a pause is so many times as long as its count
	inodeSize = 1024                   // what a file counts for besides its content
)

// watchDisk returns a channel that is closed when the program has too much on
// disk: changes to the root file system and what it may write of its mounts.
func (r *run) watchDisk(ctx context.Context) <-chan struct{} {
	full := make(chan struct{})
	if r.spec.Limits.Disk <= 0 {
		return full
	}
	dirs := []string{r.upper()}
	for _, m := range r.spec.Mounts {
		if !m.ReadOnly {
			dirs = append(dirs, m.Source)
		}
	}
	before := diskUse(dirs[1:]) // what was there is not the program's
	go func() {
		for {
			begun := time.Now()
			if diskUse(dirs)-before > r.spec.Limits.Disk {
				close(full)
				return
			}
			select {
			case <-time.After(max(diskPause, diskShare*time.Since(begun))):
			case <-ctx.Done():
				return
			}
		}
	}()
	return full
}

// diskUse adds up what is in the folders. It follows no links.
func diskUse(dirs []string) (total int64) {
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // it went away
			}
			if fi, err := e.Info(); err == nil {
				total += inodeSize
				if st, ok := fi.Sys().(*syscall.Stat_t); ok {
					total += st.Blocks * 512
				}
			}
			return nil
		})
	}
	return total
}
