package org.palmtop.app;

import android.content.ContentResolver;
import android.database.Cursor;
import android.net.Uri;
import android.provider.DocumentsContract;
import android.provider.DocumentsContract.Document;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.util.HashMap;
import java.util.Map;
import org.palmtop.app.logic.BundleImport;

/** A folder that the user picked: on the phone, a card, a stick, or another app's cloud. It can only be streamed. */
final class TreeSource implements BundleImport.Source {
    private static final String[] COLUMNS = {
        Document.COLUMN_DOCUMENT_ID, Document.COLUMN_DISPLAY_NAME, Document.COLUMN_MIME_TYPE
    };

    private final ContentResolver resolver;
    private final Uri tree;
    private final String name;
    /** Document ids by path, read folder by folder when needed. */
    private final Map<String, Map<String, String>> folders = new HashMap<String, Map<String, String>>();

    TreeSource(ContentResolver resolver, Uri tree) {
        this.resolver = resolver;
        this.tree = tree;
        String id = DocumentsContract.getTreeDocumentId(tree);
        folders.put("", children(id));
        this.name = displayName(id);
    }

    /** The picked folder's name. */
    String name() {
        return name;
    }

    @Override
    public InputStream open(String path) throws IOException {
        int slash = path.lastIndexOf('/');
        String id = folder(slash < 0 ? "" : path.substring(0, slash)).get(path.substring(slash + 1));
        InputStream stream = id == null
                ? null
                : resolver.openInputStream(DocumentsContract.buildDocumentUriUsingTree(tree, id));
        if (stream == null) {
            throw new FileNotFoundException(path);
        }
        return stream;
    }

    private Map<String, String> folder(String path) throws FileNotFoundException {
        Map<String, String> known = folders.get(path);
        if (known == null) {
            int slash = path.lastIndexOf('/');
            String id = folder(slash < 0 ? "" : path.substring(0, slash)).get(path.substring(slash + 1));
            if (id == null) {
                throw new FileNotFoundException(path);
            }
            known = children(id);
            folders.put(path, known);
        }
        return known;
    }

    private Map<String, String> children(String id) {
        Map<String, String> ids = new HashMap<String, String>();
        Uri address = DocumentsContract.buildChildDocumentsUriUsingTree(tree, id);
        try (Cursor cursor = resolver.query(address, COLUMNS, null, null, null)) {
            while (cursor != null && cursor.moveToNext()) {
                ids.put(cursor.getString(1), cursor.getString(0));
            }
        }
        return ids;
    }

    private String displayName(String id) {
        Uri address = DocumentsContract.buildDocumentUriUsingTree(tree, id);
        try (Cursor cursor = resolver.query(address, COLUMNS, null, null, null)) {
            return cursor != null && cursor.moveToFirst() ? cursor.getString(1) : "model";
        }
    }
}
