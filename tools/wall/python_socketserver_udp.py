# Python's socketserver over UDP, as its documentation shows it.
import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        data, server = self.request
        server.sendto(data, self.client_address)


address = ("", int(sys.argv[1]))
with socketserver.UDPServer(address, Handler) as server:
    server.serve_forever()
