package org.palmtop.app.logic;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.List;

/** The chats that are kept on the phone, one file each; one of them is open. */
public final class History {
    private static final String PREFIX = "chat-";
    private static final String SUFFIX = ".json";
    private static final int MAX_NAME_BYTES = 4096;

    /** One chat of the list. */
    public static final class Item {
        /** Its file's name. */
        public final String id;
        /** When it last changed, in milliseconds since 1970. */
        public final long changedMillis;
        /** Its messages; empty when the file is damaged. */
        public final List<Entry> entries;
        public final boolean isDamaged;
        public final boolean isOpen;

        Item(File file, Transcript transcript, boolean isOpen) {
            this.id = file.getName();
            this.changedMillis = file.lastModified();
            this.entries = transcript.entries();
            this.isDamaged = transcript.isDamaged();
            this.isOpen = isOpen;
        }

        /** First words of the chat in one line; "" when it has none, for example only a picture. */
        public String title() {
            for (Entry entry : entries) {
                if (entry.isUser && !entry.text.isEmpty()) {
                    return entry.text.replaceAll("\\s+", " ");
                }
            }
            return "";
        }

        /** The picture or sound that the chat begins with; null when it has none. */
        public Attachment attachment() {
            for (Entry entry : entries) {
                for (Attachment attachment : entry.attachments) {
                    return attachment;
                }
            }
            return null;
        }
    }

    private final File folder;
    private final File mark;
    private File file;
    private Transcript open;

    /** @param folder where the chats are; made when it is not there. The chat that was open last is open again. */
    public History(File folder) {
        this.folder = folder;
        this.mark = new File(folder, "open");
        folder.mkdirs();
        String name = "";
        try {
            name = TextFile.read(mark, MAX_NAME_BYTES);
        } catch (IOException error) {
            // the first start
        }
        if (isChat(name)) {
            use(new File(folder, name));
        }
        if (open == null || open.isDamaged()) {
            begin(); // a damaged file stays, for the list
        }
    }

    /** Messages of the open chat. */
    public synchronized Transcript open() {
        return open;
    }

    /** Open a new, empty chat. */
    public synchronized void begin() {
        long number = System.currentTimeMillis();
        while (new File(folder, PREFIX + number + SUFFIX).exists()) {
            number++;
        }
        use(new File(folder, PREFIX + number + SUFFIX));
    }

    /** Open a kept chat; false when it is not there any more, or cannot be read. */
    public synchronized boolean open(String id) {
        File chosen = new File(folder, id);
        if (!isChat(id) || !chosen.isFile() || new Transcript(chosen).isDamaged()) {
            return false;
        }
        use(chosen);
        return true;
    }

    /** Delete a chat and its pictures and sounds; another one is open then, if it was. */
    public synchronized void delete(String id, File mediaFolder) {
        File chosen = new File(folder, id);
        if (!isChat(id)) {
            return;
        }
        boolean isOpen = chosen.equals(file);
        Transcript gone = isOpen ? open : new Transcript(chosen);
        gone.discard(); // an answer may still be growing in it
        MediaFolder.remove(mediaFolder, gone.entries());
        if (isOpen) {
            begin();
        }
    }

    /** The chats with messages, the last changed one first. Reads files: not for the main thread. */
    public List<Item> items() {
        List<Item> items = new ArrayList<Item>();
        File[] files = folder.listFiles();
        for (File one : files == null ? new File[0] : files) {
            if (isChat(one.getName())) {
                boolean isOpen = isOpen(one);
                Item item = new Item(one, isOpen ? open() : new Transcript(one), isOpen);
                if (item.isDamaged || !item.entries.isEmpty()) {
                    items.add(item);
                }
            }
        }
        Collections.sort(items, new Comparator<Item>() {
            @Override
            public int compare(Item one, Item other) {
                int order = Long.compare(other.changedMillis, one.changedMillis);
                return order != 0 ? order : other.id.compareTo(one.id);
            }
        });
        return items;
    }

    /** Remove media that no chat holds; none while a damaged chat may hold some. */
    public void sweep(File mediaFolder) {
        List<Entry> held = new ArrayList<Entry>();
        for (Item item : items()) {
            if (item.isDamaged) {
                return;
            }
            held.addAll(item.entries);
        }
        MediaFolder.sweep(mediaFolder, held);
    }

    private synchronized boolean isOpen(File one) {
        return one.equals(file);
    }

    private void use(File chosen) {
        if (open != null && open.entries().isEmpty() && !open.isDamaged()) {
            file.delete();
        }
        file = chosen;
        open = new Transcript(chosen);
        try {
            TextFile.write(mark, chosen.getName());
        } catch (IOException error) {
            // the phone is full: the chat says so as soon as it is to be saved
        }
    }

    private static boolean isChat(String name) {
        return name.startsWith(PREFIX) && name.endsWith(SUFFIX) && name.indexOf('/') < 0;
    }
}
