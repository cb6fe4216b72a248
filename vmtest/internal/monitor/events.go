// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"context"
	"sync"
)

// subscription is one reader of events with its bounded queue.
type subscription struct {
	mu    sync.Mutex
	queue []Event
	lost  int
	ended bool
	more  chan struct{} // has room for one: something changed
}

// Events returns a channel of the events from now on. It is closed when ctx is
// done or, after the events before it, when the stream has ended. A reader that
// does not read loses the oldest events beyond MaxEvents and is told so by an
// event named EventsLost; it never holds up QEMU or anybody else.
func (m *Monitor) Events(ctx context.Context) (<-chan Event, error) {
	s := &subscription{more: make(chan struct{}, 1)}
	m.mu.Lock()
	if m.err != nil {
		err := m.err
		m.mu.Unlock()
		return nil, err
	}
	m.subs[s] = struct{}{}
	m.mu.Unlock()

	out := make(chan Event)
	go func() {
		defer close(out)
		defer func() {
			m.mu.Lock()
			delete(m.subs, s)
			m.mu.Unlock()
		}()
		for {
			e, ok, ended := s.take()
			if !ok {
				if ended {
					return
				}
				select {
				case <-s.more:
				case <-ctx.Done():
					return
				}
				continue
			}
			select {
			case out <- e:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func (s *subscription) put(e Event) {
	s.mu.Lock()
	if len(s.queue) >= MaxEvents {
		s.queue[0] = Event{}
		s.queue = s.queue[1:]
		s.lost++
	}
	s.queue = append(s.queue, e)
	s.mu.Unlock()
	s.wake()
}

func (s *subscription) end() {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.wake()
}

func (s *subscription) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *subscription) take() (e Event, ok, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		e = Event{Event: EventsLost, Data: map[string]any{"count": s.lost}}
		s.lost = 0
		return e, true, false
	}
	if len(s.queue) == 0 {
		return e, false, s.ended
	}
	e = s.queue[0]
	s.queue[0] = Event{}
	s.queue = s.queue[1:]
	return e, true, false
}
