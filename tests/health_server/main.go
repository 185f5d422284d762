// A gRPC server with the health service of grpc-go, for tests of health checks. It prints the address that it listens
// on, then reads lines SERVICE=STATUS from standard input, such as finance.Ledger=NOT_SERVING or, for the whole server,
// =SERVING, and prints each of them when it is in force. It ends with the input.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func main() {
	listen := flag.String("listen", "", "address and port to listen on")
	certificate := flag.String("certificate", "", "certificate in a PEM file; without one there is no TLS")
	key := flag.String("key", "", "private key of the certificate in a PEM file")
	flag.Parse()
	if err := serve(*listen, *certificate, *key); err != nil {
		log.Fatal(err)
	}
}

func serve(address, certificate, key string) error {
	var options []grpc.ServerOption
	if certificate != "" {
		transport, err := credentials.NewServerTLSFromFile(certificate, key)
		if err != nil {
			return fmt.Errorf("read %s and %s: %w", certificate, key, err)
		}
		options = append(options, grpc.Creds(transport))
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	statuses := health.NewServer()
	server := grpc.NewServer(options...)
	grpc_health_v1.RegisterHealthServer(server, statuses)
	go func() {
		if err := server.Serve(listener); err != nil {
			log.Fatalf("serve on %s: %v", address, err)
		}
	}()
	fmt.Println(listener.Addr())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		service, status, _ := strings.Cut(lines.Text(), "=")
		value, known := grpc_health_v1.HealthCheckResponse_ServingStatus_value[status]
		if !known {
			return fmt.Errorf("status of %q: %q, allowed SERVING, NOT_SERVING, UNKNOWN", service, status)
		}
		statuses.SetServingStatus(service, grpc_health_v1.HealthCheckResponse_ServingStatus(value))
		fmt.Println(lines.Text())
	}
	return lines.Err()
}
