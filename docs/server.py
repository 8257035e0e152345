# An echo server like the one of the lab sheet. It serves one client at a time.
import socket

listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", 7777))
listener.listen(1)
print("listening on port 7777")
try:
    while True:
        client, address = listener.accept()
        while True:
            data = client.recv(1500)
            if data == b"":
                break
            client.sendall(data)
        client.close()
except KeyboardInterrupt:
    listener.close()
