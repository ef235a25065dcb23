module cri-proxy.local/bench/relay/old

go 1.13

require google.golang.org/grpc v1.27.1
