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

    /** @param file where it is kept; a missing or unreadable file is an empty chat. */
    public Transcript(File file) {
        this.file = file;
        try {
            Map<?, ?> map = (Map<?, ?>) Json.parse(TextFile.read(file, MAX_FILE_BYTES));
            for (Object entry : (List<?>) map.get("entries")) {
                entries.add(Entry.fromMap((Map<?, ?>) entry).afterRestart());
            }
        } catch (IOException error) {
            entries.clear(); // the first start, or a file that was cut
        } catch (RuntimeException error) {
            entries.clear(); // JSON of another shape: nothing of it can be trusted
        }
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

    public synchronized void clear() {
        entries.clear();
    }

    public synchronized IOException saveError() {
        return saveError;
    }

    public synchronized void save() {
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
