# The lab sheet's echo server over TCP, in other words: one client at a time.
import socket
import sys

listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("", int(sys.argv[1])))
listener.listen(1)
try:
    while True:
        client, address = listener.accept()
        while True:
            data = client.recv(1500)
            if data == b"":
                break
            client.send(data)
        client.close()
except Exception as error:
    print("error with accept:", error)
listener.close()
