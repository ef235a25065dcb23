// An old gRPC client on two sockets of one runtime, directly and through a proxy, with equal results.
//
//	old DIRECTLY THROUGH
//
// Such clients are still on nodes: old kubelets, agents and tools. The calls carry bytes, so that one
// program supports every version of the CRI.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	service = "/runtime.v1.RuntimeService/"
	workers = 16
	rounds  = 200
)

// raw is a codec that passes messages as bytes.
type raw struct{}

func (raw) Marshal(v interface{}) ([]byte, error) { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v interface{}) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}
func (raw) Name() string { return "proto" }

// call is a method, its request, and whether the answer is always the same.
type call struct {
	path    string
	request []byte
	stable  bool
}

var calls = []call{
	{service + "Version", nil, true},
	{service + "ListContainers", nil, true},
	{service + "ListPodSandbox", nil, true},
	{service + "ContainerStatus", []byte("\x0a\x04none"), true},
	{service + "ContainerStatus", []byte("\xff"), false},
	{service + "RemovePodSandbox", []byte("\x0a\x04none"), true},
	{"/runtime.v1.ImageService/ListImages", nil, false},
	{"/runtime.v1.ImageService/ImageFsInfo", nil, false},
	{"/runtime.v9.FutureService/Rewind", []byte(strings.Repeat("x", 100000)), true},
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: old DIRECTLY THROUGH")
	}
	directly, through := dial(os.Args[1]), dial(os.Args[2])
	expected := make([]string, len(calls))
	for i, each := range calls {
		expected[i] = outcome(directly, each)
	}
	var group sync.WaitGroup
	found := make(chan error, workers)
	for worker := 0; worker < workers; worker++ {
		group.Add(1)
		go func(worker int) {
			defer group.Done()
			for turn := 0; turn < rounds; turn++ {
				i := (turn + worker) % len(calls)
				if got := outcome(through, calls[i]); got != expected[i] {
					found <- fmt.Errorf("%s: %q, directly %q", calls[i].path, got, expected[i])
					return
				}
			}
		}(worker)
	}
	group.Wait()
	close(found)
	for err := range found {
		log.Fatal(err)
	}
	if err := cancelled(through); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("grpc-go %s: %d calls as directly\n", grpc.Version, workers*rounds)
}

func dial(socket string) *grpc.ClientConn {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := grpc.DialContext(ctx, socket, grpc.WithInsecure(), grpc.WithBlock(),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", address)
		}))
	if err != nil {
		log.Fatalf("%s: %v", socket, err)
	}
	return conn
}

// outcome returns the status of a call, and its answer if that is always the same.
func outcome(conn *grpc.ClientConn, each call) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-long", strings.Repeat("y", 6000), "x-bin", "\x00\xff")
	request, answer := each.request, []byte{}
	if request == nil {
		request = []byte{}
	}
	err := conn.Invoke(ctx, each.path, &request, &answer)
	text := fmt.Sprintf("%v %s", status.Code(err), status.Convert(err).Message())
	if each.stable && !bytes.Contains(answer, []byte("uptime")) {
		text += fmt.Sprintf(" %x", answer)
	}
	return text
}

// cancelled opens and cancels an endless stream many times on one connection.
func cancelled(conn *grpc.ClientConn) error {
	for turn := 0; turn < 100; turn++ {
		ctx, cancel := context.WithCancel(context.Background())
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, service+"GetContainerEvents")
		if err != nil {
			cancel()
			return err
		}
		request, event := []byte{}, []byte{}
		if err = stream.SendMsg(&request); err == nil {
			time.AfterFunc(time.Millisecond, cancel)
			err = stream.RecvMsg(&event)
		}
		cancel()
		if code := status.Code(err); code != codes.Canceled && code != codes.Unimplemented {
			return errors.New("a cancelled stream ended with " + code.String())
		}
	}
	return nil
}
