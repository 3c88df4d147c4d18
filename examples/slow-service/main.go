// Command slow-service is a small web service that knows nothing of profilers.
//
// GET /report answers in JSON with the lines of a log in which somebody was refused. There are two
// ways to make the report: report_slow.go, and report_fixed.go behind the build tag "fixed".
// GET /served tells how many reports it made.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync/atomic"
)

// lineCount is how many lines the log has. All but every fourth are of refusals.
const lineCount = 400

// A report is what the service answers with.
type report struct {
	Count int    `json:"count"`
	Text  string `json:"text"`
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: slow-service IP:PORT")
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	lines := makeLog()
	var served int64
	http.HandleFunc("/report", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// The reader may have gone away.
		_ = json.NewEncoder(w).Encode(makeReport(lines))
		atomic.AddInt64(&served, 1)
	})
	http.HandleFunc("/served", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, atomic.LoadInt64(&served))
	})
	fmt.Printf("listening on http://%s\n", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}

// makeLog makes up the log of a day.
func makeLog() []string {
	lines := make([]string, 0, lineCount)
	for i := 0; i < lineCount; i++ {
		word := "refused"
		if i%4 == 0 {
			word = "accepted"
		}
		const form = "12:%02d:%02d %s user=%d host=10.0.0.%d agent=Mozilla/5.0 (X11; Linux x86_64; rv:128.0)"
		lines = append(lines, fmt.Sprintf(form, i/60, i%60, word, 1000+i, i%256))
	}
	return lines
}
