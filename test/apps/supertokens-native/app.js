// The unchanged SDK for React Native, and axios with its interceptors.
import axios from "axios";
import SuperTokens from "supertokens-react-native";

export { axios, SuperTokens };
