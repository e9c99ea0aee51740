// SPDX-License-Identifier: Apache-2.0
// database/sql with the driver named by the first argument: lib/pq (postgres) or pgx's (pgx). The shape is that of shape.py.
package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v4/stdlib"
	"github.com/lib/pq"
)

const rows, notifications, alterCount = 5000, 5, 20

type tally struct {
	Check  string `json:"check"`
	Right  int    `json:"right"`
	Wrong  int    `json:"wrong"`
	Errors int    `json:"errors"`
	Error  string `json:"error"`
	lock   sync.Mutex
}

func (t *tally) add(right bool, err error) bool {
	t.lock.Lock()
	defer t.lock.Unlock()
	switch {
	case err != nil:
		t.Errors++
		if t.Error == "" {
			t.Error = err.Error()
		}
	case right:
		t.Right++
	default:
		t.Wrong++
	}
	return err == nil
}

func (t *tally) tell() {
	text, err := json.Marshal(t)
	must(err)
	fmt.Println(string(text))
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var name string
var workers, count int

// address leaves all to the PG* variables.
func address() string { return os.Getenv("DRIVERS_DSN") }

func connect() *sql.DB {
	db, err := sql.Open(name, address())
	must(err)
	// One connection, as the workers of the other programs have.
	db.SetMaxOpenConns(1)
	return db
}

func sideBySide(act func(worker int)) {
	var all sync.WaitGroup
	for worker := 0; worker < workers; worker++ {
		all.Add(1)
		go func(worker int) { defer all.Done(); act(worker) }(worker)
	}
	all.Wait()
}

func statements(check string, act func(db *sql.DB, worker, number int) (bool, error)) {
	t := &tally{Check: check}
	sideBySide(func(worker int) {
		db := connect()
		defer db.Close()
		for number := 0; number < count; number++ {
			if !t.add(act(db, worker, number)) {
				db.Close()
				db = connect()
			}
		}
	})
	t.tell()
}

func once(check string, act func(db *sql.DB) (bool, error)) {
	t := &tally{Check: check}
	db := connect()
	defer db.Close()
	t.add(act(db))
	t.tell()
}

func readAltered(t *tally, db *sql.DB) {
	for time := 0; time < alterCount; time++ {
		t.add(func() (bool, error) {
			found, err := db.Query("SELECT * FROM drivers_altered WHERE id = $1", 1)
			if err != nil {
				return false, err
			}
			defer found.Close()
			seen := 0
			for found.Next() {
				seen++
			}
			return seen == 1, found.Err()
		}())
	}
}

func alter() {
	before, altered, fresh := &tally{Check: "before"}, &tally{Check: "altered"}, &tally{Check: "altered_new"}
	var dbs []*sql.DB
	open := func() {
		dbs = nil
		for worker := 0; worker < workers; worker++ {
			dbs = append(dbs, connect())
		}
	}
	open()
	sideBySide(func(worker int) { readAltered(before, dbs[worker]) })
	before.tell()
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	sideBySide(func(worker int) { readAltered(altered, dbs[worker]) })
	altered.tell()
	for _, db := range dbs {
		db.Close()
	}
	open()
	sideBySide(func(worker int) { readAltered(fresh, dbs[worker]) })
	fresh.tell()
	for _, db := range dbs {
		db.Close()
	}
}

func main() {
	name = os.Args[1]
	var err error
	workers, err = strconv.Atoi(os.Args[2])
	must(err)
	count, err = strconv.Atoi(os.Args[3])
	must(err)
	fmt.Println(os.Getenv("DRIVERS_VERSION"))
	statements("read", func(db *sql.DB, worker, number int) (bool, error) {
		var found, id int
		err := db.QueryRow(fmt.Sprintf("SELECT worker, id FROM drivers_%d WHERE id = $1", worker), number%100).Scan(&found, &id)
		return found == worker && id == number%100, err
	})
	statements("write", func(db *sql.DB, worker, number int) (bool, error) {
		_, err := db.Exec(fmt.Sprintf("INSERT INTO drivers_written_%d (worker) VALUES ($1)", worker), worker)
		return true, err
	})
	alter()
	statements("freed", func(db *sql.DB, worker, number int) (bool, error) {
		tx, err := db.Begin()
		if err != nil {
			return false, err
		}
		defer tx.Rollback()
		statement, err := tx.Prepare(fmt.Sprintf("SELECT worker FROM drivers_%d WHERE id = $1", worker))
		if err != nil {
			return false, err
		}
		var found, one int
		if err := statement.QueryRow(1).Scan(&found); err != nil {
			return false, err
		}
		if err := statement.Close(); err != nil {
			return false, err
		}
		if err := tx.QueryRow("SELECT $1::int", 1).Scan(&one); err != nil {
			return false, err
		}
		return found == worker, tx.Commit()
	})
	if name == "postgres" {
		once("copy", func(db *sql.DB) (bool, error) {
			tx, err := db.Begin()
			if err != nil {
				return false, err
			}
			statement, err := tx.Prepare(pq.CopyIn("drivers_copied", "id"))
			if err != nil {
				return false, err
			}
			for number := 0; number < rows; number++ {
				if _, err := statement.Exec(number); err != nil {
					return false, err
				}
			}
			if _, err := statement.Exec(); err != nil {
				return false, err
			}
			if err := statement.Close(); err != nil {
				return false, err
			}
			var found int
			if err := tx.QueryRow("SELECT count(*) FROM drivers_copied").Scan(&found); err != nil {
				return false, err
			}
			return found == rows, tx.Commit()
		})
		once("listen", func(db *sql.DB) (bool, error) {
			listener := pq.NewListener(address(), time.Second, time.Minute, nil)
			defer listener.Close()
			if err := listener.Listen("drivers"); err != nil {
				return false, err
			}
			for number := 0; number < notifications; number++ {
				if _, err := db.Exec("SELECT pg_notify('drivers', 'x')"); err != nil {
					return false, err
				}
			}
			deadline := time.After(3 * time.Second)
			for found := 0; ; {
				select {
				case <-listener.Notify:
					found++
					if found == notifications {
						return true, nil
					}
				case <-deadline:
					return false, nil
				}
			}
		})
	}
	once("cancel", func(db *sql.DB) (bool, error) {
		limited, done := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer done()
		begun := time.Now()
		_, err := db.ExecContext(limited, "SELECT pg_sleep(30)")
		return err != nil && time.Since(begun) < 15*time.Second, nil
	})
}
