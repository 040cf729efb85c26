// Any kernel. LOW and HIGH are net.ipv4.ip_local_port_range; leave out net.ipv4.ip_local_reserved_ports.
import java.io.IOException;
import java.net.*;
import java.util.*;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.*;

class Ports {
    static final int LOW = 9024, HIGH = 65535;
    static final List<Integer> LIST =
        IntStream.rangeClosed(LOW, HIGH).boxed().collect(Collectors.toCollection(ArrayList::new));
    static final AtomicInteger TURN = new AtomicInteger();

    static {
        Collections.shuffle(LIST);
    }

    static Socket connect(InetAddress source, SocketAddress to) throws IOException {
        for (int failed = 0; ; failed++) {
            int port = LIST.get(Math.floorMod(TURN.getAndIncrement(), LIST.size()));
            Socket socket = new Socket();
            try {
                socket.setReuseAddress(true);
                socket.bind(new InetSocketAddress(source, port));
                socket.connect(to);
                return socket;
            } catch (BindException | NoRouteToHostException error) {
                // The port is taken; older versions call EADDRNOTAVAIL a missing route.
                socket.close();
                if (failed == LIST.size()) {
                    throw error;
                }
            }
        }
    }
}
