package org.palmtop.app.logic;

import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** Listeners for changes of the chat; safe to use from any thread. */
final class Watchers {
    private final List<Chat.Watcher> watchers = new CopyOnWriteArrayList<Chat.Watcher>();

    void add(Chat.Watcher watcher) {
        watchers.add(watcher);
    }

    void remove(Chat.Watcher watcher) {
        watchers.remove(watcher);
    }

    void tell() {
        for (Chat.Watcher watcher : watchers) {
            watcher.onChange();
        }
    }
}
