package org.palmtop.app.logic;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.Json;

/** The chat as it is kept on the phone: saved before an answer begins and while it grows, whole or not at all. */
public final class Transcript {
    private static final int MAX_FILE_BYTES = 16 << 20;
    private static final long SCHEMA = 1;

    private final File file;
    private final List<Entry> entries = new ArrayList<Entry>();
    /** Last failure of saving, else null. The chat continues: only a restart would lose it. */
    private IOException saveError;
    private boolean isDamaged;
    private boolean isDiscarded;

    /** @param file where it is kept; a missing or unreadable file is an empty chat, the latter {@link #isDamaged}. */
    public Transcript(File file) {
        this.file = file;
        try {
            Map<?, ?> map = (Map<?, ?>) Json.parse(TextFile.read(file, MAX_FILE_BYTES));
            for (Object entry : (List<?>) map.get("entries")) {
                entries.add(Entry.fromMap((Map<?, ?>) entry).afterRestart());
            }
        } catch (IOException error) {
            damaged(); // a new chat, or a file that was cut
        } catch (RuntimeException error) {
            damaged(); // JSON of another shape: nothing of it can be trusted
        }
    }

    private void damaged() {
        entries.clear();
        isDamaged = file.exists();
    }

    /** Whether there is a file, and it cannot be read. */
    public boolean isDamaged() {
        return isDamaged;
    }

    public synchronized List<Entry> entries() {
        return new ArrayList<Entry>(entries);
    }

    public synchronized Entry last() {
        return entries.isEmpty() ? null : entries.get(entries.size() - 1);
    }

    public synchronized void add(Entry entry) {
        entries.add(entry);
    }

    public synchronized void replaceLast(Entry entry) {
        entries.set(entries.size() - 1, entry);
    }

    public synchronized void removeLast() {
        entries.remove(entries.size() - 1);
    }

    /** Delete the file; nothing is saved from now on. */
    synchronized void discard() {
        isDiscarded = true;
        file.delete();
    }

    public synchronized IOException saveError() {
        return saveError;
    }

    public synchronized void save() {
        if (isDiscarded) {
            return;
        }
        Map<String, Object> map = new LinkedHashMap<String, Object>();
        List<Object> list = new ArrayList<Object>();
        for (Entry entry : entries) {
            list.add(entry.toMap());
        }
        map.put("schema", SCHEMA);
        map.put("entries", list);
        try {
            TextFile.write(file, JsonWriter.write(map));
            saveError = null;
        } catch (IOException error) {
            saveError = error;
        }
    }
}
