# Python's socketserver as its documentation shows it: one recv a connection,
# and a thread for each.
import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(self.request.recv(1024))


address = ("", int(sys.argv[1]))
with socketserver.ThreadingTCPServer(address, Handler) as server:
    server.serve_forever()
